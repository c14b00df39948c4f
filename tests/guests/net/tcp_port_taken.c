// tcp_port_taken: a port that another program on the host listens on is refused with EADDRINUSE, by its own address and by
// any, and the server goes on with the one it has. So do servers that look for a free port. The client holds such a port
// open and tells which.
#include "net.h"

static int try_bind(int family, const void *address, socklen_t length) {
    int on = 1, fd = socket(family, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), 0);
    int result = bind(fd, address, length), error = errno;
    CHECK_EQ(close(fd), 0);
    errno = error;
    return result;
}

int main(int argc, char **argv) {
    int listener = tcp_listen(argc, argv, 0), fd = tcp_accept(listener);
    char line[100];
    CHECK(read_line(fd, line, sizeof line));
    uint16_t taken = atoi(line);
    struct sockaddr_in any = any_address(taken), local = any;
    local.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK_ERR(try_bind(AF_INET, &local, sizeof local), EADDRINUSE);
    CHECK_ERR(try_bind(AF_INET, &any, sizeof any), EADDRINUSE);
    puts("taken");
    reply(fd, "taken");
    CHECK(read_line(fd, line, sizeof line) && strcmp(line, "closed") == 0);
    CHECK_EQ(try_bind(AF_INET, &local, sizeof local), 0);
    CHECK_EQ(try_bind(AF_INET, &any, sizeof any), 0);
    puts("free again");

    // Two may be bound to one port before either listens; only one can.
    int on = 1, one = socket(AF_INET, SOCK_STREAM, 0), two = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_EQ(setsockopt(one, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), 0);
    CHECK_EQ(setsockopt(two, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), 0);
    CHECK_EQ(bind(one, (struct sockaddr *)&local, sizeof local), 0);
    CHECK_EQ(bind(two, (struct sockaddr *)&local, sizeof local), 0);
    CHECK_EQ(listen(one, 5), 0);
    CHECK_ERR(listen(two, 5), EADDRINUSE);
    puts("the first to listen has it");
    reply(fd, "free");
    return exit_success();
}
