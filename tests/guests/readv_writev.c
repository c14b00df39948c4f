// readv_writev: vectored reads and writes on files and pipes fill and drain the buffers in order, skip empty ones, and
// report short counts; one writev to a pipe is one piece up to PIPE_BUF.
#include "guest_dir.h"
#include <sys/uio.h>

int main(void) {
    char a[4], b[4], c[4], flat[16];
    int fds[2];
    struct iovec out[5] = {{"aaa", 3}, {NULL, 0}, {"bb", 2}, {"", 0}, {"cccc", 4}};
    struct iovec in[3] = {{a, 4}, {b, 4}, {c, 4}};
    guest_dir_enter();
    int fd = open_new("file");
    CHECK_EQ(writev(fd, out, 5), 9);
    CHECK_EQ(writev(fd, out, 1), 3);
    CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
    CHECK_EQ(readv(fd, in, 3), 12);
    CHECK(memcmp(a, "aaab", 4) == 0 && memcmp(b, "bccc", 4) == 0 && memcmp(c, "caaa", 4) == 0);
    CHECK_EQ(readv(fd, in, 3), 0);
    CHECK_EQ(lseek(fd, 10, SEEK_SET), 10);
    CHECK_EQ(readv(fd, in, 3), 2);
    CHECK(memcmp(a, "aaab", 4) == 0 && b[0] == 'b'); // only two bytes came
    puts("file");

    CHECK_EQ(pipe2(fds, O_NONBLOCK), 0);
    CHECK_EQ(writev(fds[1], out, 5), 9);
    CHECK_EQ(readv(fds[0], in, 2), 8);
    CHECK(memcmp(a, "aaab", 4) == 0 && memcmp(b, "bccc", 4) == 0);
    CHECK_EQ(read(fds[0], flat, 16), 1);
    CHECK_ERR(readv(fds[0], in, 3), EAGAIN);
    puts("pipe");

    static struct iovec many[1025];
    static char bytes[1025];
    for (int i = 0; i < 1025; i++) bytes[i] = (char)i, many[i] = (struct iovec){&bytes[i], 1};
    CHECK_EQ(writev(fds[1], many, 1024), 1024);
    CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
    CHECK_EQ(writev(fd, many, 1024), 1024);
    volatile int too_many = 1025;
    CHECK_ERR(writev(fd, many, too_many), EINVAL);
    struct iovec bad[2] = {{"ok", 2}, {(void *)8, 5}};
    CHECK_ERR(writev(fds[1], bad + 1, 1), EFAULT);
    many[0].iov_len = (size_t)-1;
    CHECK_ERR(writev(fd, many, 1), EINVAL);
    puts("1024 pieces, no more");
    return exit_success();
}
