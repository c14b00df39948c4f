// socketpair_stream: a stream socket pair carries bytes both ways, blocks when full and when empty, takes send and
// recv flags, and ends with end of file and EPIPE. Servers use it between their threads and to their children.
#include "check.h"
#include <sys/ioctl.h>
#include <sys/socket.h>

enum { TOTAL = 3 << 20 };
static int fds[2];

static unsigned char pattern(int i) { return (unsigned char)(i * 13 + i / 509); }

static void *send_and_get_back(void *arg) {
    static unsigned char chunk[50000];
    for (int done = 0; done < TOTAL;) {
        int size = TOTAL - done < (int)sizeof chunk ? TOTAL - done : (int)sizeof chunk;
        for (int i = 0; i < size; i++) chunk[i] = pattern(done + i);
        CHECK_EQ(write(fds[1], chunk, size), size);
        done += size;
    }
    CHECK_EQ(read(fds[1], chunk, sizeof chunk), 4);
    CHECK_EQ(memcmp(chunk, "done", 4), 0);
    return arg;
}

int main(void) {
    static unsigned char buffer[40000];
    int type, count;
    socklen_t length = sizeof type;
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    CHECK_EQ(getsockopt(fds[0], SOL_SOCKET, SO_TYPE, &type, &length), 0);
    CHECK_EQ(type, SOCK_STREAM);

    CHECK_EQ(send(fds[0], "hello", 5, MSG_NOSIGNAL), 5);
    CHECK_EQ(send(fds[1], "world", 5, 0), 5);
    CHECK_EQ(ioctl(fds[1], FIONREAD, &count), 0);
    CHECK_EQ(count, 5);
    CHECK_EQ(recv(fds[1], buffer, 3, MSG_PEEK), 3);
    CHECK_EQ(recv(fds[1], buffer, 100, 0), 5);
    CHECK_EQ(memcmp(buffer, "hello", 5), 0);
    CHECK_ERR(recv(fds[1], buffer, 100, MSG_DONTWAIT), EAGAIN);
    CHECK_EQ(read(fds[0], buffer, 100), 5);
    CHECK_EQ(memcmp(buffer, "world", 5), 0);
    puts("both ways");

    pthread_t thread = spawn(send_and_get_back, NULL);
    ssize_t n;
    for (int total = 0; total < TOTAL;) {
        CHECK((n = read(fds[0], buffer, sizeof buffer)) > 0);
        for (ssize_t i = 0; i < n; i++, total++) CHECK_EQ(buffer[i], pattern(total));
    }
    CHECK_EQ(write(fds[0], "done", 4), 4);
    join(thread);
    printf("%d bytes in order, and an answer\n", TOTAL);

    CHECK_EQ(write(fds[1], "rest", 4), 4);
    CHECK_EQ(close(fds[1]), 0);
    CHECK_EQ(read(fds[0], buffer, 100), 4);
    CHECK_EQ(read(fds[0], buffer, 100), 0);
    CHECK_ERR(send(fds[0], "x", 1, MSG_NOSIGNAL), EPIPE);
    CHECK_ERR(socketpair(AF_INET, SOCK_STREAM, 0, fds), EOPNOTSUPP);
    CHECK_ERR(socketpair(AF_UNIX, SOCK_RDM, 0, fds), ESOCKTNOSUPPORT);
    puts("end of file, EPIPE");
    return exit_success();
}
