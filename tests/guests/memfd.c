// memfd: a memfd is a file without a name: sized, read, written, mapped twice onto the same bytes, sealed. Double
// mappings serve as ring buffers and for just-in-time code; the shim itself builds on memfds.
#include "check.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { PAGE = 4096 };

int main(void) {
    struct stat st;
    char buffer[8];
    int fd = memfd_create("buffer", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fd >= 0);
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    CHECK_EQ(fstat(fd, &st), 0);
    CHECK(S_ISREG(st.st_mode) && st.st_size == 0);
    CHECK_EQ(ftruncate(fd, 2 * PAGE), 0);
    CHECK_EQ(pwrite(fd, "hello", 5, PAGE), 5);
    CHECK_EQ(pread(fd, buffer, 8, 2 * PAGE - 3), 3);
    puts("a file in memory");

    // the same pages twice in a row: a write over the end shows at the beginning
    char *ring = mmap(NULL, 4 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(ring != MAP_FAILED);
    for (int half = 0; half < 2; half++) {
        char *at = ring + half * 2 * PAGE;
        CHECK_EQ(mmap(at, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0), at);
    }
    CHECK_EQ(memcmp(ring + PAGE, "hello", 5), 0);
    memcpy(ring + 2 * PAGE - 4, "wrap-around", 11);
    CHECK_EQ(memcmp(ring, "-around", 7), 0);
    CHECK_EQ(pread(fd, buffer, 7, 0), 7);
    CHECK_EQ(memcmp(buffer, "-around", 7), 0);
    puts("mapped twice in a row: a ring");

    CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
    CHECK_EQ(fcntl(fd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW);
    CHECK_ERR(ftruncate(fd, PAGE), EPERM);
    CHECK_ERR(ftruncate(fd, 3 * PAGE), EPERM);
    CHECK_ERR(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EBUSY); // there are writable mappings
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(memcmp(ring, "-around", 7), 0);
    CHECK_ERR(memfd_create("x", 0x1000), EINVAL);
    puts("sealed; the mapping outlives the descriptor");
    return exit_success();
}
