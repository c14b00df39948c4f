// epoll_level: level-triggered readiness lasts until the cause is gone, comes with the right bits and data, and with
// few result slots nobody starves: what was reported goes to the end of the line.
#include "check.h"
#include <sys/epoll.h>
#include <sys/socket.h>

enum { PAIRS = 4 };

int main(void) {
    int epoll = epoll_create1(EPOLL_CLOEXEC), fds[PAIRS][2];
    struct epoll_event event, events[PAIRS];
    char buffer[10];
    CHECK(epoll >= 0);
    for (int i = 0; i < PAIRS; i++) {
        event = (struct epoll_event){.events = EPOLLIN, .data.u64 = 0x100000000ull + i};
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds[i]), 0);
        CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i][0], &event), 0);
    }
    CHECK_EQ(epoll_wait(epoll, events, PAIRS, 0), 0);
    CHECK_EQ(write(fds[1][1], "abc", 3), 3);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(epoll_wait(epoll, events, PAIRS, 1000), 1);
        CHECK(events[0].events == EPOLLIN && events[0].data.u64 == 0x100000001ull);
        CHECK_EQ(read(fds[1][0], buffer, 1), 1);
    }
    CHECK_EQ(epoll_wait(epoll, events, PAIRS, 0), 0);
    puts("ready until all is read");

    for (int i = 0; i < PAIRS; i++) CHECK_EQ(write(fds[i][1], "x", 1), 1);
    int seen[PAIRS] = {0};
    for (int i = 0; i < 3 * PAIRS; i++) {
        CHECK_EQ(epoll_wait(epoll, events, 1, 1000), 1);
        seen[(uint32_t)events[0].data.u64]++;
    }
    for (int i = 0; i < PAIRS; i++) CHECK_EQ(seen[i], 3);
    CHECK_EQ(epoll_wait(epoll, events, PAIRS, 0), PAIRS);
    for (int i = 0; i < PAIRS; i++) CHECK_EQ(read(fds[i][0], buffer, 10), 1);
    puts("one slot, four ready: each in its turn");

    event = (struct epoll_event){.events = EPOLLIN | EPOLLOUT, .data.u32 = 9};
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_MOD, fds[0][0], &event), 0);
    CHECK_EQ(epoll_wait(epoll, events, PAIRS, 0), 1);
    CHECK(events[0].events == EPOLLOUT && events[0].data.u32 == 9);
    CHECK_EQ(write(fds[0][1], "y", 1), 1);
    CHECK_EQ(epoll_wait(epoll, events, PAIRS, 0), 1);
    CHECK_EQ(events[0].events, EPOLLIN | EPOLLOUT);
    CHECK_EQ(close(fds[0][1]), 0);
    CHECK_EQ(epoll_wait(epoll, events, PAIRS, 0), 1);
    CHECK_EQ(events[0].events, EPOLLIN | EPOLLOUT | EPOLLHUP); // EPOLLRDHUP was not asked for, EPOLLHUP needs no asking
    event.events = 0;
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_MOD, fds[0][0], &event), 0);
    CHECK_EQ(epoll_wait(epoll, events, PAIRS, 0), 1);
    CHECK_EQ(events[0].events, EPOLLHUP);
    puts("bits: in, out, hang-up");
    return exit_success();
}
