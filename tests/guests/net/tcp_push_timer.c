// tcp_push_timer: the server speaks by itself: a timerfd in its epoll loop sends a line to each subscriber at every
// tick. Output that no input asked for: nothing but the clock has caused it.
#include "net.h"
#include <sys/epoll.h>
#include <sys/timerfd.h>

int main(int argc, char **argv) {
    int listener = tcp_listen(argc, argv, 0), epoll = epoll_create1(0), timer = timerfd_create(CLOCK_MONOTONIC, 0);
    int fd = tcp_accept(listener), left = 0, number = 0;
    struct itimerspec every_10_ms = {timespec_of_ns(10 * NS_PER_MS), timespec_of_ns(10 * NS_PER_MS)}, off = {0};
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    char line[100];
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), 0);
    event.data.fd = timer;
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &event), 0);
    for (;;) {
        CHECK_EQ(epoll_wait(epoll, &event, 1, -1), 1);
        if (event.data.fd == timer) {
            uint64_t expiries;
            CHECK_EQ(read(timer, &expiries, sizeof expiries), sizeof expiries);
            reply(fd, "tick %d", ++number); // one, however many were missed
            if (--left == 0) CHECK_EQ(timerfd_settime(timer, 0, &off, NULL), 0);
            continue;
        }
        CHECK(read_line(fd, line, sizeof line));
        if (strcmp(line, "quit") == 0) break;
        CHECK_EQ(sscanf(line, "subscribe %d", &left), 1);
        CHECK_EQ(timerfd_settime(timer, 0, &every_10_ms, NULL), 0);
    }
    reply(fd, "bye");
    printf("%d ticks\n", number);
    return exit_success();
}
