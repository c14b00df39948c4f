// tcp_options: socket options keep what was set, on listener and connection, have sane defaults, and both ends agree
// about addresses. Emulated sockets must remember them, and a takeover must carry them to the new kernel socket.
#include "net.h"

static int get(int fd, int level, int option) {
    int value = -1;
    socklen_t length = sizeof value;
    CHECK_EQ(getsockopt(fd, level, option, &value, &length), 0);
    CHECK_EQ(length, sizeof value);
    return value;
}

static void set(int fd, int level, int option, int value) {
    CHECK_EQ(setsockopt(fd, level, option, &value, sizeof value), 0);
}

static void set_and_get(int fd, int level, int option, int value) {
    set(fd, level, option, value);
    CHECK_EQ(get(fd, level, option), value);
}

int main(int argc, char **argv) {
    char line[200], ip[64], client_ip[64];
    int port, client_port;
    struct sockaddr_in own, peer, accepted;
    socklen_t length = sizeof own;
    int listener = tcp_listen(argc, argv, 0);
    CHECK_EQ(get(listener, SOL_SOCKET, SO_ACCEPTCONN), 1);
    CHECK_EQ(get(listener, SOL_SOCKET, SO_REUSEADDR), 1);
    set(listener, SOL_SOCKET, SO_KEEPALIVE, 1); // inherited by connections
    set(listener, IPPROTO_TCP, TCP_NODELAY, 1);
    CHECK_EQ(getsockname(listener, (struct sockaddr *)&own, &length), 0);
    CHECK(own.sin_family == AF_INET && own.sin_port == htons(port_argument(argc, argv)) && own.sin_addr.s_addr == 0);
    puts("listener");

    int fd = accept(listener, (struct sockaddr *)&accepted, &length);
    CHECK(fd >= 0);
    CHECK_EQ(get(fd, SOL_SOCKET, SO_TYPE), SOCK_STREAM);
    CHECK_EQ(get(fd, SOL_SOCKET, SO_DOMAIN), AF_INET);
    CHECK_EQ(get(fd, SOL_SOCKET, SO_PROTOCOL), IPPROTO_TCP);
    CHECK_EQ(get(fd, SOL_SOCKET, SO_ACCEPTCONN), 0);
    CHECK_EQ(get(fd, SOL_SOCKET, SO_ERROR), 0);
    CHECK_EQ(get(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
    CHECK_EQ(get(fd, IPPROTO_TCP, TCP_NODELAY), 1);
    CHECK(get(fd, SOL_SOCKET, SO_RCVBUF) > 0 && get(fd, SOL_SOCKET, SO_SNDBUF) > 0);
    CHECK(get(fd, IPPROTO_TCP, TCP_MAXSEG) > 500);
    puts("connection: defaults and inheritance");

    set_and_get(fd, IPPROTO_TCP, TCP_NODELAY, 0);
    set_and_get(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_and_get(fd, SOL_SOCKET, SO_KEEPALIVE, 0);
    set_and_get(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_and_get(fd, IPPROTO_TCP, TCP_KEEPIDLE, 100);
    set_and_get(fd, IPPROTO_TCP, TCP_KEEPINTVL, 20);
    set_and_get(fd, IPPROTO_TCP, TCP_KEEPCNT, 4);
    set_and_get(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 60000);
    set(fd, SOL_SOCKET, SO_SNDBUF, 50000);
    CHECK_EQ(get(fd, SOL_SOCKET, SO_SNDBUF), 100000); // doubled, as Linux does
    struct linger linger = {1, 5}, back = {0};
    length = sizeof back;
    CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger), 0);
    CHECK_EQ(getsockopt(fd, SOL_SOCKET, SO_LINGER, &back, &length), 0);
    CHECK(back.l_onoff == 1 && back.l_linger == 5);
    struct tcp_info info;
    length = sizeof info;
    CHECK_EQ(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length), 0);
    CHECK_EQ(info.tcpi_state, TCP_ESTABLISHED);
    volatile int value = 1;
    CHECK_ERR(setsockopt(fd, SOL_SOCKET, 9999, (void *)&value, sizeof value), ENOPROTOOPT);
    CHECK_ERR(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, (void *)&value, 1), EINVAL);
    puts("set and read back");

    // "addresses CLIENT-IP CLIENT-PORT SERVER-IP SERVER-PORT", as the client's kernel says
    CHECK(read_line(fd, line, sizeof line));
    CHECK_EQ(sscanf(line, "addresses %63s %d %63s %d", client_ip, &client_port, ip, &port), 4);
    length = sizeof own;
    CHECK_EQ(getsockname(fd, (struct sockaddr *)&own, &length), 0);
    CHECK_EQ(length, sizeof own);
    CHECK_EQ(getpeername(fd, (struct sockaddr *)&peer, &length), 0);
    CHECK_EQ(memcmp(&peer, &accepted, sizeof peer), 0);
    CHECK(strcmp(inet_ntoa(own.sin_addr), ip) == 0 && ntohs(own.sin_port) == port);
    CHECK(strcmp(inet_ntoa(peer.sin_addr), client_ip) == 0 && ntohs(peer.sin_port) == client_port);
    length = 4; // too little room: cut, with the true length
    CHECK_EQ(getpeername(fd, (struct sockaddr *)&peer, &length), 0);
    CHECK_EQ(length, sizeof peer);
    reply(fd, "agreed");
    puts("both ends agree about their addresses");
    CHECK(read_line(fd, line, sizeof line) && strcmp(line, "quit") == 0);
    reply(fd, "bye");
    return exit_success();
}
