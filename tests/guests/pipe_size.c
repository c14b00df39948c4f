// pipe_size: F_SETPIPE_SZ rounds up to a power of two pages, refuses to shrink below what is inside, and the new size
// is what fits. Programs that shovel much data raise it.
#include "check.h"
#include <fcntl.h>

int main(void) {
    static char block[200000];
    int fds[2];
    CHECK_EQ(pipe2(fds, O_NONBLOCK), 0);
    CHECK_EQ(fcntl(fds[0], F_SETPIPE_SZ, 100000), 131072);
    CHECK_EQ(fcntl(fds[1], F_GETPIPE_SZ), 131072);
    CHECK_EQ(write(fds[1], block, sizeof block), 131072);
    CHECK_ERR(fcntl(fds[1], F_SETPIPE_SZ, 65536), EBUSY);
    CHECK_EQ(read(fds[0], block, 100000), 100000);
    CHECK_EQ(fcntl(fds[1], F_SETPIPE_SZ, 65536), 65536);
    CHECK_EQ(read(fds[0], block, sizeof block), 31072);
    CHECK_EQ(fcntl(fds[1], F_SETPIPE_SZ, 1), 4096);
    CHECK_EQ(write(fds[1], block, sizeof block), 4096);
    CHECK_ERR(fcntl(0, F_GETPIPE_SZ + 1000), EINVAL);
    puts("128 kB, 64 kB, 4 kB");
    return exit_success();
}
