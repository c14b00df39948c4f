// dup_dup2_dup3: duplicates share position and status flags but not close-on-exec; dup2 closes what was there, does
// nothing for equal numbers, and dup3 refuses them. Redirections are made of this.
#include "guest_dir.h"
#include <sys/socket.h>

int main(void) {
    char buffer[16];
    int fds[2];
    guest_dir_enter();
    int fd = open_new("file"), copy = dup(fd), third = fcntl(fd, F_DUPFD_CLOEXEC, 20);
    CHECK(copy >= 0 && third >= 20);
    CHECK_EQ(write(fd, "0123456789", 10), 10);
    CHECK_EQ(lseek(copy, 0, SEEK_CUR), 10);
    CHECK_EQ(lseek(third, 3, SEEK_SET), 3);
    CHECK_EQ(read(fd, buffer, 2), 2);
    CHECK_EQ(memcmp(buffer, "34", 2), 0);
    CHECK_EQ(fcntl(copy, F_SETFL, O_APPEND), 0);
    CHECK(fcntl(fd, F_GETFL) & O_APPEND);
    CHECK(fcntl(fd, F_GETFD) == 0 && fcntl(copy, F_GETFD) == 0 && fcntl(third, F_GETFD) == FD_CLOEXEC);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(read(copy, buffer, 2), 2);
    CHECK_EQ(memcmp(buffer, "56", 2), 0);
    puts("one position, one set of flags, own close-on-exec");

    CHECK_EQ(pipe(fds), 0);
    CHECK_EQ(dup2(copy, fds[1]), fds[1]); // closes the pipe's only writer
    CHECK_EQ(read(fds[0], buffer, 1), 0);
    CHECK_EQ(read(fds[1], buffer, 1), 1);
    CHECK_EQ(buffer[0], '7');
    puts("dup2 closes what was there");

    CHECK_EQ(dup2(third, third), third);
    CHECK_EQ(fcntl(third, F_GETFD), FD_CLOEXEC); // untouched
    CHECK_EQ(dup2(third, copy), copy);
    CHECK_EQ(fcntl(copy, F_GETFD), 0);
    CHECK_EQ(dup3(third, copy, O_CLOEXEC), copy);
    CHECK_EQ(fcntl(copy, F_GETFD), FD_CLOEXEC);
    CHECK_ERR(dup3(third, third, 0), EINVAL);
    CHECK_ERR(dup3(third, copy, O_APPEND), EINVAL);
    CHECK_ERR(dup2(777, 777), EBADF);
    CHECK_ERR(dup2(777, copy), EBADF);
    CHECK_ERR(dup2(copy, -1), EBADF);
    CHECK_ERR(dup(777), EBADF);
    CHECK_EQ(read(copy, buffer, 1), 1); // a failed dup2 closed nothing
    puts("equal and bad numbers");

    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    CHECK((copy = dup(fds[0])) >= 0);
    CHECK_EQ(close(fds[0]), 0);
    CHECK_EQ(write(copy, "x", 1), 1);
    CHECK_EQ(read(fds[1], buffer, 1), 1);
    CHECK_EQ(close(copy), 0);
    CHECK_EQ(read(fds[1], buffer, 1), 0);
    puts("a socket ends with its last duplicate");
    return exit_success();
}
