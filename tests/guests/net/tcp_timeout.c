// tcp_timeout: timeouts fire while a connection is idle and not before: epoll_wait ticks, SO_RCVTIMEO on a blocking
// recv, SO_SNDTIMEO on a blocked send; data end the wait early. Idle timers of all servers.
#include "net.h"
#include <sys/epoll.h>
#include <sys/time.h>

// Socket timeouts count ticks, so they are measured by the clock that ticks: it lags just as they do on a busy machine.
static int64_t now_in_ticks_ns(void) { return now_ns(CLOCK_MONOTONIC_COARSE); }

static void set_timeout(int fd, int option, int ms) {
    struct timeval t = {.tv_usec = ms * 1000}, back;
    socklen_t length = sizeof back;
    CHECK_EQ(setsockopt(fd, SOL_SOCKET, option, &t, sizeof t), 0);
    CHECK_EQ(getsockopt(fd, SOL_SOCKET, option, &back, &length), 0);
    CHECK(back.tv_sec == 0 && back.tv_usec >= t.tv_usec && back.tv_usec < t.tv_usec + 20000); // whole ticks
}

int main(int argc, char **argv) {
    static char block[1 << 20];
    char line[100], c;
    int listener = tcp_listen(argc, argv, 0), fd = tcp_accept(listener), epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN};
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), 0);
    while (read_line(fd, line, sizeof line) && strcmp(line, "quit") != 0) {
        int64_t start = now_ns(CLOCK_MONOTONIC), start_in_ticks = now_in_ticks_ns();
        if (strcmp(line, "ticks") == 0) {
            for (int i = 0; i < 3; i++) CHECK_EQ(epoll_wait(epoll, &event, 1, 20), 0);
            CHECK(now_ns(CLOCK_MONOTONIC) - start >= 60 * NS_PER_MS);
            reply(fd, "3 ticks");
            CHECK_EQ(epoll_wait(epoll, &event, 1, 20000), 1); // the next command comes first
        } else if (strcmp(line, "receive") == 0) {
            set_timeout(fd, SO_RCVTIMEO, 60);
            CHECK_ERR(recv(fd, &c, 1, 0), EAGAIN);
            CHECK(now_in_ticks_ns() - start_in_ticks >= 40 * NS_PER_MS); // less up to two ticks
            set_timeout(fd, SO_RCVTIMEO, 0);
            reply(fd, "timed out");
            CHECK_EQ(recv(fd, &c, 1, MSG_PEEK), 1);
        } else if (strcmp(line, "send") == 0) {
            int other = tcp_accept(listener); // a client that does not read
            set_timeout(other, SO_SNDTIMEO, 60);
            while (send(other, block, sizeof block, 0) > 0) {} // the last one may be short
            CHECK_EQ(errno, EAGAIN);
            CHECK_EQ(close(other), 0);
            CHECK(now_in_ticks_ns() - start_in_ticks >= 40 * NS_PER_MS);
            reply(fd, "timed out");
        }
        puts(line);
    }
    reply(fd, "bye");
    return exit_success();
}
