// epoll_edge: edge-triggered descriptors are reported once per arrival, not while data lie there; more data are a new
// edge even if the old are unread; MOD looks again. nginx and most async runtimes run on edges.
#include "check.h"
#include <sys/epoll.h>
#include <sys/socket.h>

static int epoll;

// The events of the only ready descriptor, or 0.
static uint32_t ready(void) {
    struct epoll_event events[4];
    int n = epoll_wait(epoll, events, 4, 0);
    CHECK(n == 0 || n == 1);
    return n == 0 ? 0 : events[0].events;
}

int main(void) {
    static char block[65536];
    int fds[2];
    struct epoll_event event = {.events = EPOLLIN | EPOLLET | EPOLLRDHUP};
    CHECK((epoll = epoll_create1(0)) >= 0);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    CHECK_EQ(write(fds[1], "before", 6), 6);
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, fds[0], &event), 0);
    CHECK_EQ(ready(), EPOLLIN); // adding looks once
    CHECK_EQ(ready(), 0);
    CHECK_EQ(read(fds[0], block, 1), 1);
    CHECK_EQ(ready(), 0);
    CHECK_EQ(write(fds[1], "more", 4), 4);
    CHECK_EQ(ready(), EPOLLIN);
    CHECK_EQ(ready(), 0);
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_MOD, fds[0], &event), 0);
    CHECK_EQ(ready(), EPOLLIN);
    CHECK_EQ(ready(), 0);
    CHECK_EQ(read(fds[0], block, sizeof block), 9);
    CHECK_ERR(read(fds[0], block, 1), EAGAIN);
    CHECK_EQ(ready(), 0);
    CHECK_EQ(write(fds[1], "again", 5), 5);
    CHECK_EQ(ready(), EPOLLIN);
    CHECK_EQ(read(fds[0], block, sizeof block), 5);
    puts("in: one report per arrival");

    event.events = EPOLLOUT | EPOLLET;
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_MOD, fds[0], &event), 0);
    CHECK_EQ(ready(), EPOLLOUT);
    CHECK_EQ(ready(), 0);
    ssize_t n, total = 0;
    while ((n = write(fds[0], block, sizeof block)) > 0) total += n;
    CHECK_EQ(errno, EAGAIN);
    CHECK_EQ(ready(), 0);
    while (total > 0) {
        CHECK((n = read(fds[1], block, sizeof block)) > 0);
        total -= n;
    }
    CHECK_EQ(ready(), EPOLLOUT); // room again: an edge
    CHECK_EQ(ready(), 0);
    puts("out: once at first, once when there is room again");

    event.events = EPOLLIN | EPOLLRDHUP | EPOLLET;
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_MOD, fds[0], &event), 0);
    CHECK_EQ(ready(), 0);
    CHECK_EQ(shutdown(fds[1], SHUT_WR), 0);
    CHECK_EQ(ready(), EPOLLIN | EPOLLRDHUP);
    CHECK_EQ(ready(), 0);
    CHECK_EQ(close(fds[1]), 0);
    CHECK_EQ(ready(), EPOLLIN | EPOLLRDHUP | EPOLLHUP);
    CHECK_EQ(ready(), 0);
    puts("half close and close: one edge each");
    return exit_success();
}
