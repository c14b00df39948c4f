// udp_echo: datagrams come with their sender and go back to it, whole, cut with MSG_TRUNC, empty, by sendto, sendmsg or
// a connected socket, which hears its peer only. DNS and metrics servers.
#include "net.h"

int main(int argc, char **argv) {
    static char buffer[65536];
    struct sockaddr_in address = any_address(port_argument(argc, argv)), from, own;
    int fd = socket(AF_INET, SOCK_DGRAM, 0), connected;
    socklen_t length = sizeof own;
    CHECK(fd >= 0);
    CHECK_EQ(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    CHECK_EQ(getsockname(fd, (struct sockaddr *)&own, &length), 0);
    CHECK_EQ(own.sin_port, address.sin_port);
    CHECK_ERR(recv(fd, buffer, 1, MSG_DONTWAIT), EAGAIN);
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        struct iovec iov = {buffer, sizeof buffer};
        struct msghdr message = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &iov, .msg_iovlen = 1};
        CHECK_EQ(poll(&p, 1, -1), 1);
        ssize_t size = recvmsg(fd, &message, MSG_PEEK | MSG_TRUNC);
        CHECK(size >= 0 && message.msg_namelen == sizeof from && from.sin_family == AF_INET);
        if (size >= 4 && memcmp(buffer, "cut ", 4) == 0) {
            iov.iov_len = 4;
            CHECK_EQ(recvmsg(fd, &message, 0), 4);
            CHECK(message.msg_flags & MSG_TRUNC); // the rest is gone
            CHECK_EQ(sendto(fd, "was cut", 7, 0, (struct sockaddr *)&from, sizeof from), 7);
            continue;
        }
        length = sizeof from;
        CHECK_EQ(recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &length), size);
        iov.iov_len = (size_t)size;
        if (size >= 10 && memcmp(buffer, "connected ", 10) == 0) {
            CHECK((connected = socket(AF_INET, SOCK_DGRAM, 0)) >= 0);
            CHECK_EQ(connect(connected, (struct sockaddr *)&from, sizeof from), 0);
            CHECK_EQ(send(connected, buffer, (size_t)size, 0), size);
            CHECK_EQ(close(connected), 0);
        } else if (size == 4 && memcmp(buffer, "quit", 4) == 0) {
            break;
        } else {
            CHECK_EQ(sendmsg(fd, &message, 0), size);
        }
    }
    CHECK_EQ(sendto(fd, "bye", 3, 0, (struct sockaddr *)&from, sizeof from), 3);
    CHECK_ERR(sendto(fd, buffer, 65535, 0, (struct sockaddr *)&from, sizeof from), EMSGSIZE);
    return exit_success();
}
