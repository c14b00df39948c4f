// fcntl_flags: close-on-exec and status flags are kept and given back for every kind of descriptor; F_SETFL changes
// only what may change; F_DUPFD finds the lowest number from its argument on.
#include "guest_dir.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

static void check_descriptor(const char *name, int fd, int access) {
    CHECK(fd >= 0);
    CHECK_EQ(fcntl(fd, F_GETFD), 0);
    CHECK_EQ(fcntl(fd, F_SETFD, FD_CLOEXEC), 0);
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    CHECK_EQ(fcntl(fd, F_SETFD, 0), 0);
    int flags = fcntl(fd, F_GETFL);
    CHECK_EQ(flags & O_ACCMODE, access);
    CHECK_EQ(flags & O_NONBLOCK, 0);
    CHECK_EQ(fcntl(fd, F_SETFL, flags | O_NONBLOCK), 0);
    CHECK_EQ(fcntl(fd, F_GETFL), flags | O_NONBLOCK);
    CHECK_EQ(fcntl(fd, F_SETFL, flags | O_CREAT | O_TRUNC | O_EXCL), 0); // those are not status
    CHECK_EQ(fcntl(fd, F_GETFL), flags);
    CHECK_EQ(close(fd), 0);
    puts(name);
}

int main(void) {
    int fds[2];
    guest_dir_enter();
    check_descriptor("file", open_new("file"), O_RDWR);
    check_descriptor("file read-only", open("file", O_RDONLY), O_RDONLY);
    check_descriptor("file write-only", open("file", O_WRONLY), O_WRONLY);
    check_descriptor("tcp socket", socket(AF_INET, SOCK_STREAM, 0), O_RDWR);
    check_descriptor("udp socket", socket(AF_INET, SOCK_DGRAM, 0), O_RDWR);
    check_descriptor("eventfd", eventfd(0, 0), O_RDWR);
    check_descriptor("epoll", epoll_create1(0), O_RDWR);
    check_descriptor("timerfd", timerfd_create(CLOCK_MONOTONIC, 0), O_RDWR);
    CHECK_EQ(pipe(fds), 0);
    check_descriptor("pipe reader", fds[0], O_RDONLY);
    check_descriptor("pipe writer", fds[1], O_WRONLY);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    check_descriptor("socket pair", fds[0], O_RDWR);

    int fd = open("file", O_RDWR | O_APPEND | O_CLOEXEC | O_NONBLOCK);
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    CHECK_EQ(fcntl(fd, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK), O_RDWR | O_APPEND | O_NONBLOCK);
    struct rlimit limit;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    CHECK_EQ(fcntl(fd, F_DUPFD, 300), 300);
    CHECK_EQ(fcntl(fd, F_DUPFD, 300), 301);
    CHECK_EQ(fcntl(fd, F_DUPFD_CLOEXEC, 300), 302);
    CHECK(fcntl(300, F_GETFD) == 0 && fcntl(302, F_GETFD) == FD_CLOEXEC);
    CHECK_ERR(fcntl(fd, F_DUPFD, limit.rlim_cur), EINVAL);
    CHECK_ERR(fcntl(fd, F_DUPFD, -1), EINVAL);
    CHECK_ERR(fcntl(fd, 9999), EINVAL);
    CHECK_ERR(fcntl(777, F_GETFD), EBADF);
    puts("duplicates from a number on");
    return exit_success();
}
