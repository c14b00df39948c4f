// socketpair_shutdown: SHUT_WR ends one direction only: the peer reads what is left, then end of file, and may still
// answer; SHUT_RD and SHUT_RDWR wake whoever waits in read. Half-closed conversations live on this.
#include "check.h"
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

static short ready(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT | POLLRDHUP};
    CHECK(poll(&p, 1, 0) >= 0);
    return p.revents;
}

static void *read_to_end(void *fd) {
    char c;
    CHECK_EQ(read(*(int *)fd, &c, 1), 0);
    return NULL;
}

int main(void) {
    int fds[2];
    char buffer[16];
    CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    CHECK_EQ(write(fds[0], "question", 8), 8);
    CHECK_EQ(shutdown(fds[0], SHUT_WR), 0);
    CHECK_ERR(write(fds[0], "x", 1), EPIPE);
    CHECK_EQ(ready(fds[1]), POLLIN | POLLOUT | POLLRDHUP);
    CHECK_EQ(read(fds[1], buffer, 16), 8);
    CHECK_EQ(read(fds[1], buffer, 16), 0);
    CHECK_EQ(ready(fds[1]), POLLIN | POLLOUT | POLLRDHUP);
    CHECK_EQ(write(fds[1], "answer", 6), 6);
    CHECK_EQ(read(fds[0], buffer, 16), 6);
    CHECK_EQ(ready(fds[0]), POLLOUT);
    puts("SHUT_WR: the answer still comes");

    CHECK_EQ(shutdown(fds[1], SHUT_WR), 0);
    CHECK_EQ(ready(fds[0]), POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
    CHECK_EQ(read(fds[0], buffer, 16), 0);
    puts("both directions shut: hang-up");
    CHECK(close(fds[0]) == 0 && close(fds[1]) == 0);

    static const int hows[] = {SHUT_RD, SHUT_RDWR};
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
        pthread_t thread = spawn(read_to_end, &fds[0]);
        sleep_ms(5); // waits by now, most likely
        CHECK_EQ(shutdown(fds[0], hows[i]), 0);
        join(thread);
        CHECK_ERR(write(fds[1], "x", 1), EPIPE);
        CHECK(close(fds[0]) == 0 && close(fds[1]) == 0);
    }
    puts("SHUT_RD and SHUT_RDWR wake the reader");

    CHECK_EQ(pipe(fds), 0);
    CHECK_ERR(shutdown(fds[0], SHUT_WR), ENOTSOCK);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    CHECK_ERR(shutdown(fds[0], 9), EINVAL);
    return exit_success();
}
