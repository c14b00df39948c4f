// urandom_read: /dev/urandom and /dev/random give full reads of changing bytes, through read, readv, pread and stdio.
// Older programs draw their keys here; what comes out is input like any other.
#include "check.h"
#include <fcntl.h>
#include <sys/uio.h>

int main(void) {
    static const char *paths[] = {"/dev/urandom", "/dev/random"};
    static unsigned char a[5000], b[5000];
    for (int i = 0; i < 2; i++) {
        int fd = open(paths[i], O_RDONLY | O_CLOEXEC);
        CHECK(fd >= 0);
        CHECK_EQ(read(fd, a, sizeof a), sizeof a);
        CHECK_EQ(read(fd, b, sizeof b), sizeof b);
        CHECK(memcmp(a, b, sizeof a) != 0);
        struct iovec iov[2] = {{a, 16}, {b, 16}};
        CHECK_EQ(readv(fd, iov, 2), 32);
        CHECK(memcmp(a, b, 16) != 0);
        CHECK_EQ(pread(fd, a, 16, 1000), 16);
        CHECK(memcmp(a, b, 16) != 0);
        CHECK_EQ(read(fd, a, 0), 0);
        CHECK_EQ(close(fd), 0);

        FILE *f = fopen(paths[i], "r"); // reads ahead by 4096
        CHECK(f != NULL);
        CHECK_EQ(fread(a, 1, 32, f), 32);
        CHECK_EQ(fread(b, 1, 32, f), 32);
        CHECK(memcmp(a, b, 32) != 0);
        CHECK_EQ(fclose(f), 0);
        puts(paths[i]);
    }
    return exit_success();
}
