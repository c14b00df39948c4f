// epoll_dup_semantics: epoll watches (number, open file), not numbers: a duplicate may be added beside the original,
// and after the watched number is closed events still come while a duplicate lives, and nobody can remove them by it.
#include "check.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

int main(void) {
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = 1}, events[4];
    int epoll = epoll_create1(0), fd = eventfd(1, 0), copy = dup(fd);
    CHECK(epoll >= 0 && fd >= 0 && copy >= 0);
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), 0);
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), EEXIST);
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_DEL, copy, NULL), ENOENT);
    event.data.u32 = 2;
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, copy, &event), 0);
    CHECK_EQ(epoll_wait(epoll, events, 4, 0), 2);
    CHECK_EQ(events[0].data.u32 + events[1].data.u32, 3);
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_DEL, copy, NULL), 0);
    puts("the duplicate is an entry of its own");

    CHECK_EQ(close(fd), 0);
    CHECK_EQ(epoll_wait(epoll, events, 4, 0), 1);
    CHECK_EQ(events[0].data.u32, 1);
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL), EBADF);
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_DEL, copy, NULL), ENOENT);
    puts("number closed, file alive: events still come");

    CHECK_EQ(dup2(copy, fd), fd); // the same file under the old number again
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL), 0);
    CHECK_EQ(epoll_wait(epoll, events, 4, 0), 0);
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), 0);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(epoll_wait(epoll, events, 4, 0), 1);
    CHECK_EQ(close(copy), 0);
    CHECK_EQ(epoll_wait(epoll, events, 4, 0), 0);
    puts("the last one closed: gone");
    return exit_success();
}
