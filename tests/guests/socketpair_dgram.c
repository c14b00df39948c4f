// socketpair_dgram: datagram and SEQPACKET pairs keep message boundaries, cut what does not fit (MSG_TRUNC tells), and
// carry empty messages; only SEQPACKET has an end of file.
#include "check.h"
#include <sys/socket.h>

static void check_messages(int type, const char *name) {
    int fds[2];
    char buffer[100];
    CHECK_EQ(socketpair(AF_UNIX, type, 0, fds), 0);
    CHECK_EQ(send(fds[0], "one", 3, 0), 3);
    CHECK_EQ(send(fds[0], "second", 6, 0), 6);
    CHECK_EQ(send(fds[0], "a third one", 11, 0), 11);
    CHECK_EQ(send(fds[0], "4", 1, 0), 1);
    CHECK_EQ(recv(fds[1], buffer, sizeof buffer, MSG_PEEK), 3);
    CHECK_EQ(recv(fds[1], buffer, sizeof buffer, 0), 3);
    CHECK_EQ(recv(fds[1], buffer, 2, 0), 2); // the rest of "second" is lost
    struct iovec iov = {buffer, 5};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    CHECK_EQ(recvmsg(fds[1], &message, MSG_TRUNC), 11); // its true length
    CHECK(message.msg_flags & MSG_TRUNC);
    CHECK_EQ(memcmp(buffer, "a thi", 5), 0);
    CHECK_EQ(recv(fds[1], buffer, sizeof buffer, 0), 1);
    CHECK_EQ(buffer[0], '4');
    CHECK_ERR(recv(fds[1], buffer, sizeof buffer, MSG_DONTWAIT), EAGAIN);
    CHECK_ERR(send(fds[0], NULL, 10 << 20, 0), EMSGSIZE);

    if (type == SOCK_DGRAM) {
        CHECK_EQ(send(fds[0], "", 0, 0), 0);
        CHECK_EQ(recv(fds[1], buffer, sizeof buffer, 0), 0);
        CHECK_EQ(close(fds[0]), 0);
        CHECK_ERR(recv(fds[1], buffer, sizeof buffer, MSG_DONTWAIT), EAGAIN);
        CHECK_ERR(send(fds[1], "x", 1, MSG_NOSIGNAL), ECONNREFUSED);
    } else {
        CHECK_EQ(send(fds[0], "last", 4, 0), 4);
        CHECK_EQ(close(fds[0]), 0);
        CHECK_EQ(recv(fds[1], buffer, sizeof buffer, 0), 4);
        CHECK_EQ(recv(fds[1], buffer, sizeof buffer, 0), 0);
        CHECK_ERR(send(fds[1], "x", 1, MSG_NOSIGNAL), EPIPE);
    }
    CHECK_EQ(close(fds[1]), 0);
    puts(name);
}

int main(void) {
    check_messages(SOCK_DGRAM, "datagrams");
    check_messages(SOCK_SEQPACKET, "seqpacket");
    return exit_success();
}
