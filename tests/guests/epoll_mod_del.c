// epoll_mod_del: MOD replaces events and data at once, also for a thread already waiting; DEL forgets, and the same
// descriptor can be added again; changing the set while events are pending changes what is reported.
#include "check.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

static int epoll, fd;

static void control(int op, uint32_t events, uint64_t data) {
    struct epoll_event event = {.events = events, .data.u64 = data};
    CHECK_EQ(epoll_ctl(epoll, op, fd, &event), 0);
}

static void expect(uint32_t events, uint64_t data) {
    struct epoll_event event;
    CHECK_EQ(epoll_wait(epoll, &event, 1, 20000), 1);
    CHECK_EQ(event.events, events);
    CHECK_EQ(event.data.u64, data);
}

static void expect_nothing(void) {
    struct epoll_event event;
    CHECK_EQ(epoll_wait(epoll, &event, 1, 0), 0);
}

static void *wait_for_modified(void *arg) {
    expect(EPOLLOUT, 77);
    return arg;
}

int main(void) {
    CHECK((epoll = epoll_create1(0)) >= 0 && (fd = eventfd(0, EFD_NONBLOCK)) >= 0);
    control(EPOLL_CTL_ADD, EPOLLIN, 1);
    expect_nothing();
    control(EPOLL_CTL_MOD, EPOLLOUT, 2);
    expect(EPOLLOUT, 2);
    control(EPOLL_CTL_MOD, EPOLLOUT, 3); // same events, other data
    expect(EPOLLOUT, 3);
    control(EPOLL_CTL_MOD, 0, 4);
    expect_nothing();
    CHECK_EQ(eventfd_write(fd, 1), 0);
    expect_nothing();
    control(EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT, 5);
    expect(EPOLLIN | EPOLLOUT, 5);
    puts("MOD replaces events and data");

    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL), 0);
    expect_nothing();
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL), ENOENT);
    control(EPOLL_CTL_ADD, EPOLLIN, 6);
    expect(EPOLLIN, 6);
    eventfd_t value;
    CHECK_EQ(eventfd_read(fd, &value), 0);
    expect_nothing();
    puts("DEL forgets, ADD begins anew");

    pthread_t thread = spawn(wait_for_modified, NULL);
    sleep_ms(5); // waits by now, most likely
    control(EPOLL_CTL_MOD, EPOLLOUT, 77);
    join(thread);
    puts("MOD wakes a waiter");
    return exit_success();
}
