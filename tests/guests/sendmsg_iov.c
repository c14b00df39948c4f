// sendmsg_iov: sendmsg and recvmsg gather and scatter over several buffers, in order, empty ones too; sendmmsg and
// recvmmsg do many messages in a call; senseless vectors are refused.
#include "check.h"
#include <sys/socket.h>
#include <sys/uio.h>

int main(void) {
    int fds[2];
    char a[3], b[5], c[100];
    struct iovec out[4] = {{"GET ", 4}, {"", 0}, {"/index", 6}, {" HTTP", 5}};
    struct iovec in[3] = {{a, 3}, {b, 5}, {c, 100}};
    struct msghdr send_message = {.msg_iov = out, .msg_iovlen = 4}, message = {.msg_iov = in, .msg_iovlen = 3};
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    CHECK_EQ(sendmsg(fds[0], &send_message, MSG_NOSIGNAL), 15);
    CHECK_EQ(recvmsg(fds[1], &message, MSG_PEEK), 15);
    CHECK_EQ(recvmsg(fds[1], &message, 0), 15);
    CHECK(memcmp(a, "GET", 3) == 0 && memcmp(b, " /ind", 5) == 0 && memcmp(c, "ex HTTP", 7) == 0);
    CHECK(message.msg_flags == 0 && message.msg_namelen == 0 && message.msg_controllen == 0);
    puts("gathered and scattered");

    CHECK_EQ(writev(fds[0], out, 3), 10);
    CHECK_EQ(readv(fds[1], in, 2), 8);
    CHECK_EQ(readv(fds[1], in, 3), 2);
    CHECK_ERR(recvmsg(fds[1], &message, MSG_DONTWAIT), EAGAIN);
    puts("the same with writev and readv");

    int pair[2];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair), 0);
    struct mmsghdr outs[3] = {0}, ins[4] = {0};
    struct iovec buffers[4];
    for (int i = 0; i < 3; i++) outs[i].msg_hdr = (struct msghdr){.msg_iov = &out[i + 1], .msg_iovlen = 1};
    for (int i = 0; i < 4; i++) {
        buffers[i] = (struct iovec){c + 10 * i, 10};
        ins[i].msg_hdr = (struct msghdr){.msg_iov = &buffers[i], .msg_iovlen = 1};
    }
    CHECK_EQ(sendmmsg(pair[0], outs, 3, 0), 3);
    CHECK(outs[0].msg_len == 0 && outs[1].msg_len == 6 && outs[2].msg_len == 5);
    CHECK_EQ(recvmmsg(pair[1], ins, 4, MSG_DONTWAIT, NULL), 3);
    CHECK(ins[0].msg_len == 0 && ins[1].msg_len == 6 && ins[2].msg_len == 5 && memcmp(c + 20, " HTTP", 5) == 0);
    puts("three messages in a call");

    send_message.msg_iovlen = 1025; // more than IOV_MAX
    CHECK_ERR(sendmsg(fds[0], &send_message, 0), EMSGSIZE);
    volatile int minus_one = -1;
    CHECK_ERR(writev(fds[0], out, minus_one), EINVAL);
    CHECK_EQ(writev(fds[0], out, 0), 0);
    CHECK_ERR(sendmsg(0x7fff, &message, 0), EBADF);
    puts("senseless vectors are refused");
    return exit_success();
}
