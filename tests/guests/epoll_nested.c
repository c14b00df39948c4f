// epoll_nested: an epoll descriptor is itself readable while it has events, in another epoll or in poll; it can't watch
// itself, nor close a circle. Libraries hand out their epoll to be put into the application's.
#include "check.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

static int ready(int epoll) {
    struct epoll_event event;
    return epoll_wait(epoll, &event, 1, 0);
}

static int polled(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0);
}

static void *write_later(void *fd) {
    sleep_ms(5);
    CHECK_EQ(eventfd_write(*(int *)fd, 1), 0);
    return NULL;
}

int main(void) {
    int outer = epoll_create1(0), inner = epoll_create1(0), fd = eventfd(0, EFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN};
    eventfd_t value;
    CHECK(outer >= 0 && inner >= 0 && fd >= 0);
    CHECK_EQ(epoll_ctl(inner, EPOLL_CTL_ADD, fd, &event), 0);
    CHECK_EQ(epoll_ctl(outer, EPOLL_CTL_ADD, inner, &event), 0);
    CHECK(ready(outer) == 0 && polled(inner) == 0 && polled(outer) == 0);
    CHECK_EQ(eventfd_write(fd, 1), 0);
    CHECK(ready(outer) == 1 && polled(inner) == 1 && polled(outer) == 1 && ready(inner) == 1);
    CHECK_EQ(eventfd_read(fd, &value), 0);
    CHECK(ready(outer) == 0 && polled(inner) == 0 && polled(outer) == 0 && ready(inner) == 0);
    puts("the inner one's readiness goes up and down");

    pthread_t thread = spawn(write_later, &fd);
    CHECK_EQ(epoll_wait(outer, &event, 1, 20000), 1);
    join(thread);
    puts("and wakes a waiter of the outer one");

    event.events = EPOLLIN;
    CHECK_ERR(epoll_ctl(outer, EPOLL_CTL_ADD, outer, &event), EINVAL);
    CHECK_ERR(epoll_ctl(inner, EPOLL_CTL_ADD, outer, &event), ELOOP);
    puts("no circles");
    return exit_success();
}
