// close_range: closes, or marks close-on-exec, all descriptors of a range, holes and all, and nothing outside it.
// Daemons clean up with it at start: a shim must keep its own descriptors out of the way.
#include "check.h"
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

static bool is_open(int fd) { return fcntl(fd, F_GETFD) != -1; }

int main(void) {
    int base = 0, pair[2];
    while (base < 40) CHECK((base = open("/dev/null", O_RDONLY)) > 2); // fills holes left by whoever started us
    for (int i = 1; i < 10; i++) CHECK_EQ(eventfd(0, 0), base + i);
    CHECK_EQ(close_range(base + 3, base + 5, 0), 0);
    for (int i = 0; i < 10; i++) CHECK_EQ(is_open(base + i), i < 3 || i > 5);
    puts("a range in the middle");

    CHECK_EQ(close_range(base + 2, base + 7, CLOSE_RANGE_CLOEXEC), 0); // over the hole
    for (int i = 0; i < 10; i++)
        if (is_open(base + i)) CHECK_EQ(fcntl(base + i, F_GETFD), i == 2 || i == 6 || i == 7 ? FD_CLOEXEC : 0);
    puts("marked close-on-exec");

    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0); // into the hole
    CHECK(pair[0] == base + 3 && pair[1] == base + 4);
    CHECK_EQ(close_range(base + 4, UINT_MAX, 0), 0);
    char c;
    CHECK_EQ(read(pair[0], &c, 1), 0);
    for (int i = 0; i < 10; i++) CHECK_EQ(is_open(base + i), i <= 3);
    CHECK(is_open(0) && is_open(1) && is_open(2));
    puts("all from a number on");

    CHECK_EQ(close_range(5000, 6000, 0), 0);
    CHECK_ERR(close_range(5, 4, 0), EINVAL);
    CHECK_ERR(close_range(5000, 6000, 0x100), EINVAL);
    closefrom(base);
    CHECK(!is_open(base) && is_open(2));
    CHECK_EQ(open("/dev/null", O_RDONLY), base);
    puts("closefrom");

    int epoll = epoll_create1(0), fd = eventfd(0, 0); // what is opened after that still works
    struct epoll_event event = {.events = EPOLLIN};
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), 0);
    CHECK_EQ(eventfd_write(fd, 1), 0);
    CHECK_EQ(epoll_wait(epoll, &event, 1, 1000), 1);
    return exit_success();
}
