// ebadf: wrong and closed descriptors give the errno that programs test for: EBADF, ENOTSOCK, ESPIPE, ENOTTY, EISDIR,
// ENOTDIR, EINVAL, ENOTCONN, EDESTADDRREQ. An emulated object must not answer for a kind it is not.
#include "guest_dir.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <termios.h>

int main(void) {
    guest_dir_enter();
    char c = 0;
    int fds[2], closed = 777, on = 1;
    struct stat st;
    struct termios terminal;
    struct itimerspec timer = {0};
    socklen_t length = sizeof on;
    struct iovec iov = {&c, 1};
    int file = open_new("file"), read_only = open("file", O_RDONLY), write_only = open("file", O_WRONLY);
    int directory = open(".", O_RDONLY), tcp = socket(AF_INET, SOCK_STREAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0);
    int event = eventfd(0, EFD_NONBLOCK);
    CHECK_EQ(pipe(fds), 0);

    CHECK_ERR(read(closed, &c, 1), EBADF);
    CHECK_ERR(write(closed, &c, 1), EBADF);
    CHECK_ERR(read(-1, &c, 1), EBADF);
    CHECK_ERR(close(closed), EBADF);
    CHECK_ERR(close(-1), EBADF);
    CHECK_ERR(fstat(closed, &st), EBADF);
    CHECK_ERR(lseek(closed, 0, SEEK_SET), EBADF);
    CHECK_ERR(readv(closed, &iov, 1), EBADF);
    CHECK_ERR(send(closed, &c, 1, 0), EBADF);
    CHECK_ERR(accept(closed, NULL, NULL), EBADF);
    CHECK_ERR(setsockopt(closed, SOL_SOCKET, SO_KEEPALIVE, &on, length), EBADF);
    CHECK_ERR(ioctl(closed, FIONREAD, &on), EBADF);
    CHECK_ERR(fsync(closed), EBADF);
    CHECK_ERR(ftruncate(closed, 0), EBADF);
    CHECK_ERR(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, closed, 0), EBADF);
    CHECK_ERR(fchdir(closed), EBADF);
    CHECK_ERR(timerfd_settime(closed, 0, &timer, NULL), EBADF);
    CHECK_ERR(sendfile(closed, file, NULL, 1), EBADF);
    CHECK_ERR(write(read_only, &c, 1), EBADF);
    CHECK_ERR(read(write_only, &c, 1), EBADF);
    puts("EBADF");

    int not_sockets[] = {file, fds[0], event, directory};
    for (int i = 0; i < 4; i++) {
        CHECK_ERR(send(not_sockets[i], &c, 1, 0), ENOTSOCK);
        CHECK_ERR(recv(not_sockets[i], &c, 1, 0), ENOTSOCK);
        CHECK_ERR(listen(not_sockets[i], 1), ENOTSOCK);
        CHECK_ERR(accept(not_sockets[i], NULL, NULL), ENOTSOCK);
        CHECK_ERR(getsockopt(not_sockets[i], SOL_SOCKET, SO_ERROR, &on, &length), ENOTSOCK);
        CHECK_ERR(tcgetattr(not_sockets[i], &terminal), ENOTTY);
    }
    puts("ENOTSOCK, ENOTTY");

    CHECK_ERR(lseek(tcp, 0, SEEK_SET), ESPIPE);
    CHECK_ERR(lseek(fds[0], 0, SEEK_SET), ESPIPE);
    CHECK_ERR(pread(tcp, &c, 1, 0), ESPIPE);
    CHECK_ERR(pwrite(fds[1], &c, 1, 0), ESPIPE);
    CHECK_ERR(fsync(fds[0]), EINVAL);
    CHECK_ERR(fsync(tcp), EINVAL);
    CHECK_ERR(ftruncate(fds[1], 0), EINVAL);
    CHECK_ERR(ftruncate(read_only, 0), EINVAL);
    CHECK_ERR(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fds[0], 0), ENODEV);
    CHECK_ERR(read(directory, &c, 1), EISDIR);
    CHECK_ERR(open(".", O_WRONLY), EISDIR);
    CHECK_ERR(fchdir(file), ENOTDIR);
    CHECK_ERR(openat(file, "x", O_RDONLY), ENOTDIR);
    CHECK_ERR(timerfd_settime(event, 0, &timer, NULL), EINVAL);
    puts("ESPIPE, EINVAL, ENODEV, EISDIR, ENOTDIR");

    CHECK_ERR(recv(tcp, &c, 1, 0), ENOTCONN);
    CHECK_ERR(send(tcp, &c, 1, MSG_NOSIGNAL), EPIPE);
    CHECK_ERR(shutdown(tcp, SHUT_WR), ENOTCONN);
    CHECK_ERR(getpeername(tcp, (void *)&st, &length), ENOTCONN);
    CHECK_ERR(accept(tcp, NULL, NULL), EINVAL);
    CHECK_ERR(listen(udp, 1), EOPNOTSUPP);
    CHECK_ERR(accept(udp, NULL, NULL), EOPNOTSUPP);
    CHECK_ERR(send(udp, &c, 1, 0), EDESTADDRREQ);
    puts("unconnected sockets");
    return exit_success();
}
