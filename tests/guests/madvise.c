// madvise: DONTNEED makes anonymous pages zero again at once and file pages fresh from the file; other advice changes
// nothing one can see; FREE leaves the old value or zero. Allocators (jemalloc) purge by it hundreds of times.
#include "guest_dir.h"
#include <sys/mman.h>

enum { PAGE = 4096, PAGES = 8 };

int main(void) {
    guest_dir_enter();
    char *p = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    for (int round = 0; round < 3; round++) {
        memset(p, 'a' + round, PAGES * PAGE);
        CHECK_EQ(madvise(p + 2 * PAGE, 3 * PAGE, MADV_DONTNEED), 0);
        for (int i = 0; i < PAGES * PAGE; i++) CHECK_EQ(p[i], i >= 2 * PAGE && i < 5 * PAGE ? 0 : 'a' + round);
    }
    puts("DONTNEED: zeroes");

    static const int harmless[] = {MADV_NORMAL,   MADV_RANDOM,   MADV_SEQUENTIAL,
                                   MADV_WILLNEED, MADV_DONTDUMP, MADV_DODUMP};
    memset(p, 'z', PAGES * PAGE);
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++)
        CHECK_EQ(madvise(p, PAGES * PAGE, harmless[i]), 0);
    int huge = madvise(p, PAGES * PAGE, MADV_NOHUGEPAGE);
    CHECK(huge == 0 || errno == EINVAL); // as the kernel was built
    for (int i = 0; i < PAGES * PAGE; i++) CHECK_EQ(p[i], 'z');
    puts("other advice: nothing to see");

    CHECK_EQ(madvise(p, PAGES * PAGE, MADV_FREE), 0);
    for (int i = 0; i < PAGES; i++) CHECK(p[i * PAGE] == 'z' || p[i * PAGE] == 0);
    memset(p, 'n', PAGE); // written after FREE: safe
    CHECK_EQ(p[PAGE - 1], 'n');
    puts("FREE: old or zero");

    int fd = open_new("file");
    CHECK_EQ(ftruncate(fd, PAGE), 0);
    CHECK_EQ(pwrite(fd, "file", 4, 0), 4);
    char *private = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(private != MAP_FAILED);
    memcpy(private, "mine", 4);
    CHECK_EQ(madvise(private, PAGE, MADV_DONTNEED), 0);
    CHECK_EQ(memcmp(private, "file", 4), 0);
    puts("DONTNEED of a private file page: the file's again");

    CHECK_ERR(madvise(p + 1, PAGE, MADV_DONTNEED), EINVAL);
    CHECK_ERR(madvise(p, PAGE, 9999), EINVAL);
    CHECK_EQ(munmap(p + PAGE, PAGE), 0);
    CHECK_ERR(madvise(p, 3 * PAGE, MADV_DONTNEED), ENOMEM);
    CHECK_EQ(p[2 * PAGE], 0); // done on both sides of the hole all the same
    return exit_success();
}
