// tcp_iov: readv, writev, recvmsg and sendmsg on TCP: buffers in order, short counts at the end of what has come,
// MSG_PEEK and MSG_DONTWAIT on messages. HTTP servers send head and body this way.
#include "net.h"
#include <sys/uio.h>

static char a[5], b[10], c[100];

// Everything until `total` bytes are there, then `total` bytes by the call under test.
static void wait_for(int fd, ssize_t total) {
    char scratch[200];
    while (recv(fd, scratch, sizeof scratch, MSG_PEEK) < total) sleep_ms(1);
}

int main(int argc, char **argv) {
    int listener = tcp_listen(argc, argv, 0), fd = tcp_accept(listener);
    char line[100];
    struct iovec in[3] = {{a, 5}, {b, 10}, {c, 100}};
    struct iovec out[4] = {{"head: ", 6}, {NULL, 0}, {a, 5}, {" tail\n", 6}};
    while (read_line(fd, line, sizeof line) && strcmp(line, "quit") != 0) {
        struct msghdr message = {.msg_iov = in, .msg_iovlen = 3};
        if (strcmp(line, "readv 20") == 0) {
            wait_for(fd, 20);
            CHECK_EQ(readv(fd, in, 3), 20); // no more than has come
            CHECK_EQ(writev(fd, out, 4), 17);
        } else if (strcmp(line, "recvmsg 20") == 0) {
            wait_for(fd, 20);
            message.msg_iovlen = 2;
            CHECK_EQ(recvmsg(fd, &message, MSG_PEEK), 15);
            CHECK_EQ(recvmsg(fd, &message, 0), 15);
            CHECK(message.msg_flags == 0 && message.msg_controllen == 0);
            CHECK_EQ(recv(fd, c, sizeof c, 0), 5);
            CHECK_ERR(recvmsg(fd, &message, MSG_DONTWAIT), EAGAIN);
            struct msghdr answer = {.msg_iov = out, .msg_iovlen = 4};
            CHECK_EQ(sendmsg(fd, &answer, MSG_NOSIGNAL), 17);
        } else {
            CHECK(!"unknown command");
        }
        printf("%s: %.5s|%.10s|%.5s\n", line, a, b, c);
    }
    reply(fd, "bye");
    return exit_success();
}
