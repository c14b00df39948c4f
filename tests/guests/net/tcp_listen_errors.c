// tcp_listen_errors: wrong uses of bind, listen and accept have their errnos (EADDRINUSE, EINVAL, EADDRNOTAVAIL, ...),
// and a listener can be closed and opened again on its port while connections of the old one live. Restarts need that.
#include "net.h"

static int try_bind(struct sockaddr_in address, socklen_t length) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    int result = bind(fd, (struct sockaddr *)&address, length), error = errno;
    CHECK_EQ(close(fd), 0);
    errno = error;
    return result;
}

int main(int argc, char **argv) {
    int listener = tcp_listen(argc, argv, 0), fd, other = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in in_use = any_address(port_argument(argc, argv)), local = in_use, foreign = any_address(0), own;
    socklen_t length = sizeof own;
    char line[100], c;
    local.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    foreign.sin_addr.s_addr = inet_addr("192.0.2.1"); // RFC 5737: nobody's
    CHECK_ERR(try_bind(in_use, sizeof in_use), EADDRINUSE);
    CHECK_ERR(try_bind(local, sizeof local), EADDRINUSE);
    CHECK_ERR(try_bind(foreign, sizeof foreign), EADDRNOTAVAIL);
    CHECK_ERR(try_bind(in_use, 4), EINVAL);
    in_use.sin_family = AF_INET6;
    CHECK_ERR(try_bind(in_use, sizeof in_use), EAFNOSUPPORT);
    in_use.sin_family = AF_INET;
    CHECK_ERR(bind(listener, (struct sockaddr *)&in_use, sizeof in_use), EINVAL);
    puts("bind: refused");

    CHECK_ERR(accept(other, NULL, NULL), EINVAL);
    CHECK_ERR(recv(listener, &c, 1, 0), ENOTCONN);
    CHECK_ERR(send(listener, &c, 1, MSG_NOSIGNAL), EPIPE);
    CHECK_ERR(getpeername(listener, (struct sockaddr *)&own, &length), ENOTCONN);
    CHECK_EQ(listen(listener, 5), 0); // again: another backlog
    CHECK_EQ(bind(other, (struct sockaddr *)&(struct sockaddr_in){.sin_family = AF_INET}, sizeof own), 0);
    CHECK_EQ(getsockname(other, (struct sockaddr *)&own, &length), 0);
    CHECK(own.sin_port != 0); // one was found for us
    CHECK_EQ(close(other), 0);
    puts("listener: refused what only connections can");

    fd = tcp_accept(listener);
    CHECK(read_line(fd, line, sizeof line) && strcmp(line, "first") == 0);
    CHECK_EQ(close(listener), 0);
    listener = tcp_listen(argc, argv, 0);
    reply(fd, "reopened");
    int second = tcp_accept(listener);
    CHECK(read_line(second, line, sizeof line) && strcmp(line, "second") == 0);
    reply(second, "welcome");
    CHECK(read_line(fd, line, sizeof line) && strcmp(line, "still here") == 0);
    reply(fd, "so am I");
    puts("closed and opened again, old connection alive");
    CHECK(read_line(second, line, sizeof line) && strcmp(line, "quit") == 0);
    reply(second, "bye");
    return exit_success();
}
