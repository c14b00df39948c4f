// pipe_basic: a pipe holds 64 kB, says EAGAIN when full or empty, gives a short write only above PIPE_BUF, end of file
// after the last writer, and EPIPE (with SIGPIPE unless ignored) after the last reader; FIONREAD counts.
#include "check.h"
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/ioctl.h>

static volatile int sigpipes;
static void on_sigpipe(int signal) { (void)signal, sigpipes++; }

static int readable_bytes(int fd) {
    int count = -1;
    CHECK_EQ(ioctl(fd, FIONREAD, &count), 0);
    return count;
}

int main(void) {
    static char block[70000], got[70000];
    int fds[2], writer2;
    CHECK_EQ(pipe2(fds, O_NONBLOCK), 0);
    CHECK_EQ(fcntl(fds[1], F_GETPIPE_SZ), 65536);
    for (size_t i = 0; i < sizeof block; i++) block[i] = (char)(i * 31 + i / 251);

    CHECK_ERR(read(fds[0], got, 1), EAGAIN);
    for (int i = 0; i < 16; i++) CHECK_EQ(write(fds[1], block + i * 4096, 4096), 4096);
    CHECK_ERR(write(fds[1], block, 1), EAGAIN);
    CHECK_EQ(readable_bytes(fds[0]), 65536);
    CHECK_EQ(read(fds[0], got, sizeof got), 65536);
    CHECK_EQ(memcmp(block, got, 65536), 0);
    CHECK_EQ(readable_bytes(fds[0]), 0);
    puts("65536 bytes in, EAGAIN, 65536 bytes out");

    CHECK_EQ(write(fds[1], block, sizeof block), 65536);
    CHECK_EQ(read(fds[0], got, 4096), 4096);
    CHECK_EQ(read(fds[0], got, 4096), 4096);
    CHECK_EQ(write(fds[1], block, 10000), 8192); // more than PIPE_BUF: as much as fits
    CHECK_EQ(read(fds[0], got, sizeof got), 65536);
    CHECK_EQ(write(fds[1], block, 65536 - 100), 65536 - 100);
    CHECK_ERR(write(fds[1], block, PIPE_BUF), EAGAIN); // PIPE_BUF: all or nothing
    CHECK_EQ(read(fds[0], got, sizeof got), 65536 - 100);
    puts("short writes above PIPE_BUF, none below");

    CHECK_EQ(write(fds[1], "", 0), 0);
    CHECK_ERR(read(fds[0], got, 1), EAGAIN); // an empty write is nothing
    CHECK_EQ(write(fds[1], "abcdef", 6), 6);
    CHECK_EQ(read(fds[0], got, 2), 2);
    CHECK_EQ(read(fds[0], got + 2, 100), 4);
    CHECK_EQ(memcmp(got, "abcdef", 6), 0);
    CHECK_ERR(read(fds[1], got, 1), EBADF);
    CHECK_ERR(write(fds[0], got, 1), EBADF);
    CHECK_ERR(lseek(fds[0], 0, SEEK_CUR), ESPIPE);
    CHECK_ERR(pread(fds[0], got, 1, 0), ESPIPE);
    puts("a byte stream, one way, no position");

    CHECK((writer2 = dup(fds[1])) >= 0);
    CHECK_EQ(close(fds[1]), 0);
    CHECK_ERR(read(fds[0], got, 1), EAGAIN); // one writer is left
    CHECK_EQ(write(writer2, "last", 4), 4);
    CHECK_EQ(close(writer2), 0);
    CHECK_EQ(read(fds[0], got, 100), 4);
    for (int i = 0; i < 3; i++) CHECK_EQ(read(fds[0], got, 100), 0);
    CHECK_EQ(close(fds[0]), 0);
    puts("end of file after the last writer");

    CHECK_EQ(pipe(fds), 0);
    CHECK_EQ(close(fds[0]), 0);
    CHECK(signal(SIGPIPE, on_sigpipe) != SIG_ERR);
    CHECK_ERR(write(fds[1], "x", 1), EPIPE);
    CHECK_EQ(sigpipes, 1);
    CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    CHECK_ERR(write(fds[1], "x", 1), EPIPE);
    puts("EPIPE after the last reader");
    return exit_success();
}
