// epoll_close_removes: closing the last descriptor of an open file takes it out of every epoll, pending events and all;
// a new descriptor with the same number is a stranger and must be added anew. Servers rely on never calling DEL.
#include "check.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

int main(void) {
    struct epoll_event event, events[4];
    int epoll = epoll_create1(0), fds[2];
    CHECK(epoll >= 0);
    for (int round = 0; round < 5; round++) {
        event = (struct epoll_event){.events = EPOLLIN, .data.u32 = (uint32_t)round};
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
        CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, fds[0], &event), 0);
        CHECK_EQ(write(fds[1], "x", 1), 1);
        CHECK_EQ(epoll_wait(epoll, events, 4, 0), 1);
        CHECK_EQ(events[0].data.u32, round);
        int number = fds[0];
        CHECK_EQ(close(fds[0]), 0); // with the event still pending
        CHECK_EQ(epoll_wait(epoll, events, 4, 0), 0);

        int fd = eventfd(1, 0);
        CHECK_EQ(fd, number); // the same number, readable, not watched
        CHECK_EQ(epoll_wait(epoll, events, 4, 0), 0);
        CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event), ENOENT);
        CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), 0);
        CHECK_EQ(epoll_wait(epoll, events, 4, 0), 1);
        CHECK_EQ(close(fd), 0);
        CHECK_EQ(close(fds[1]), 0);
    }
    CHECK_EQ(epoll_wait(epoll, events, 4, 0), 0);
    puts("5 rounds: closed means gone, the same number is a stranger");
    return exit_success();
}
