// tcp_dial_out: the server is a client too: it connects to addresses it is told, blocking and non-blocking
// (EINPROGRESS, POLLOUT, SO_ERROR), and sees ECONNREFUSED. Replicas, proxies and webhooks do this.
#include "net.h"

static int error_of(int fd) {
    int error = -1;
    socklen_t length = sizeof error;
    CHECK_EQ(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length), 0);
    return error;
}

int main(int argc, char **argv) {
    int listener = tcp_listen(argc, argv, 0), control = tcp_accept(listener);
    char line[200], how[30], ip[64], answer[100];
    int port;
    while (read_line(control, line, sizeof line) && strcmp(line, "quit") != 0) {
        CHECK_EQ(sscanf(line, "%29s %63s %d", how, ip, &port), 3);
        struct sockaddr_in address = any_address((uint16_t)port), peer;
        socklen_t length = sizeof peer;
        address.sin_addr.s_addr = inet_addr(ip);
        int fd = socket(AF_INET, SOCK_STREAM | (strstr(how, "nonblocking") ? SOCK_NONBLOCK : 0), 0);
        CHECK(fd >= 0);
        int result = connect(fd, (struct sockaddr *)&address, sizeof address);
        if (strstr(how, "nonblocking") && !(result == -1 && errno == ECONNREFUSED)) {
            struct pollfd p = {.fd = fd, .events = POLLOUT};
            CHECK(result == 0 || errno == EINPROGRESS);
            CHECK_EQ(poll(&p, 1, 20000), 1);
            errno = error_of(fd);
            result = errno == 0 ? 0 : -1;
            CHECK_EQ(p.revents, result == 0 ? POLLOUT : POLLOUT | POLLERR | POLLHUP);
            CHECK_EQ(error_of(fd), 0); // reading it clears it
        }
        if (strncmp(how, "refused", 7) == 0) {
            CHECK(result == -1);
            CHECK_EQ(errno, ECONNREFUSED);
            reply(control, "refused");
        } else {
            CHECK_EQ(result, 0);
            CHECK_EQ(getpeername(fd, (struct sockaddr *)&peer, &length), 0);
            CHECK(peer.sin_port == address.sin_port && peer.sin_addr.s_addr == address.sin_addr.s_addr);
            // after a wait a second connect says once that all went well
            if (strstr(how, "nonblocking")) CHECK_EQ(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
            CHECK_ERR(connect(fd, (struct sockaddr *)&address, sizeof address), EISCONN);
            CHECK_EQ(fcntl(fd, F_SETFL, 0), 0);
            reply(fd, "hello, %s", how);
            CHECK(read_line(fd, answer, sizeof answer));
            reply(control, "heard %s", answer);
        }
        CHECK_EQ(close(fd), 0);
        puts(how);
    }
    reply(control, "bye");
    return exit_success();
}
