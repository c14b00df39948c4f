// mmap_file_shared: a shared mapping is the file: write() shows in memory and stores show in read(), in every mapping
// of it, and after munmap and msync in the file. LMDB, nginx zones and others keep their data so.
#include "guest_dir.h"
#include <sys/mman.h>

enum { PAGE = 4096, PAGES = 8 };

int main(void) {
    char buffer[16];
    guest_dir_enter();
    int fd = open_new("file");
    CHECK_EQ(ftruncate(fd, PAGES * PAGE), 0);
    char *a = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *b = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 3 * PAGE);
    CHECK(a != MAP_FAILED && b != MAP_FAILED && a != b);

    memcpy(a + 3 * PAGE + 10, "stored", 6);
    CHECK_EQ(memcmp(b + 10, "stored", 6), 0);
    CHECK_EQ(pread(fd, buffer, 6, 3 * PAGE + 10), 6);
    CHECK_EQ(memcmp(buffer, "stored", 6), 0);
    CHECK_EQ(pwrite(fd, "written", 7, 3 * PAGE + 20), 7);
    CHECK(memcmp(a + 3 * PAGE + 20, "written", 7) == 0 && memcmp(b + 20, "written", 7) == 0);
    puts("memory, file and second mapping agree");

    CHECK_EQ(read(fd, a + PAGE, PAGE), PAGE); // the file into its own mapping
    CHECK_EQ(msync(a, PAGES * PAGE, MS_SYNC), 0);
    CHECK_EQ(msync(a, PAGE, MS_ASYNC), 0);
    CHECK_ERR(msync(a + 1, PAGE, MS_SYNC), EINVAL);
    a[5 * PAGE] = 'k';
    CHECK_EQ(munmap(a, PAGES * PAGE), 0);
    CHECK_EQ(munmap(b, PAGE), 0);
    CHECK_EQ(pread(fd, buffer, 1, 5 * PAGE), 1);
    CHECK_EQ(buffer[0], 'k');
    CHECK_EQ(lseek(fd, 0, SEEK_END), PAGES * PAGE);
    puts("kept after munmap");

    char *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    for (int i = 0; i < PAGE; i++) CHECK_EQ(shared[i], 0);
    memset(shared, 1, PAGE);
    puts("shared anonymous memory begins as zeroes");
    return exit_success();
}
