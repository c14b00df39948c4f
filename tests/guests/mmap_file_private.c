// mmap_file_private: a private file mapping shows the file, keeps writes to itself (copy on write), maps any page
// offset, and shows zeroes after the end within the last page. How programs and their libraries are loaded.
#include "guest_dir.h"
#include <sys/mman.h>

enum { PAGE = 4096 };

int main(void) {
    char page[PAGE], c;
    guest_dir_enter();
    int fd = open_new("file");
    for (int i = 0; i < 4; i++) {
        memset(page, 'a' + i, PAGE);
        CHECK_EQ(write(fd, page, i < 3 ? PAGE : 100), i < 3 ? PAGE : 100);
    }

    char *p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(p != MAP_FAILED);
    for (int i = 0; i < 4 * PAGE; i++) CHECK_EQ(p[i], i < 3 * PAGE + 100 ? 'a' + i / PAGE : 0);
    puts("the file, then zeroes");

    memset(p + PAGE, 'X', PAGE);
    CHECK_EQ(pread(fd, &c, 1, PAGE), 1);
    CHECK_EQ(c, 'b');
    char *second = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, PAGE);
    CHECK(second != MAP_FAILED);
    CHECK_EQ(second[0], 'b');
    CHECK_EQ(pwrite(fd, "new", 3, PAGE), 3);
    CHECK_EQ(p[PAGE], 'X'); // our copy
    puts("writes stay private");

    CHECK_EQ(close(fd), 0);
    CHECK_EQ(unlink("file"), 0);
    CHECK(p[0] == 'a' && p[2 * PAGE] == 'c'); // the mapping keeps the file
    CHECK_EQ(munmap(p, 4 * PAGE), 0);

    fd = open_new("read-only");
    CHECK_EQ(write(fd, "x", 1), 1);
    CHECK_EQ(close(fd), 0);
    CHECK((fd = open("read-only", O_RDONLY)) >= 0);
    p = mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0); // allowed: it never reaches the file
    CHECK(p != MAP_FAILED);
    p[0] = 'y';
    CHECK_ERR(mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), EACCES);
    CHECK_ERR(mmap(NULL, 1, PROT_READ, MAP_PRIVATE, fd, 100), EINVAL);
    CHECK_EQ(pread(fd, &c, 1, 0), 1);
    CHECK_EQ(c, 'x');
    puts("a read-only file can be mapped for private writing");
    return exit_success();
}
