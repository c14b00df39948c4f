// tcp_ipv6: a dual-stack listener on :: takes IPv4 clients (as ::ffff:a.b.c.d) and IPv6 ones; with IPV6_V6ONLY set the
// option reads back. Most servers today listen this way by default.
#include "net.h"

int main(int argc, char **argv) {
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons(port_argument(argc, argv))}, peer, own;
    char line[200], text[INET6_ADDRSTRLEN], claimed[100];
    int on = 1, off = 0, listener = socket(AF_INET6, SOCK_STREAM, 0), other = socket(AF_INET6, SOCK_STREAM, 0);
    socklen_t length = sizeof on;
    CHECK(listener >= 0 && other >= 0);
    CHECK_EQ(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), 0);
    CHECK_EQ(setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off), 0);
    CHECK_EQ(setsockopt(other, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on), 0);
    CHECK_EQ(getsockopt(other, IPPROTO_IPV6, IPV6_V6ONLY, &off, &length), 0);
    CHECK_EQ(off, 1);
    CHECK_EQ(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    CHECK_EQ(listen(listener, 10), 0);
    for (bool quit = false; !quit;) {
        length = sizeof peer;
        int port, fd = accept(listener, (struct sockaddr *)&peer, &length);
        CHECK(fd >= 0);
        CHECK(length == sizeof peer && peer.sin6_family == AF_INET6);
        length = sizeof own;
        CHECK_EQ(getsockname(fd, (struct sockaddr *)&own, &length), 0);
        CHECK(own.sin6_family == AF_INET6 && own.sin6_port == address.sin6_port);
        CHECK_EQ(IN6_IS_ADDR_V4MAPPED(&peer.sin6_addr), IN6_IS_ADDR_V4MAPPED(&own.sin6_addr));
        while (!quit && read_line(fd, line, sizeof line)) {
            if (sscanf(line, "I am %99s %d", claimed, &port) == 2) {
                inet_ntop(AF_INET6, &peer.sin6_addr, text, sizeof text);
                const char *plain = strncmp(text, "::ffff:", 7) == 0 ? text + 7 : text;
                CHECK(strcmp(plain, claimed) == 0 && ntohs(peer.sin6_port) == port);
                reply(fd, "so you are");
            } else if (strcmp(line, "quit") == 0) {
                reply(fd, "bye");
                quit = true;
            } else {
                reply(fd, "%s", line);
            }
        }
        CHECK_EQ(close(fd), 0);
    }
    return exit_success();
}
