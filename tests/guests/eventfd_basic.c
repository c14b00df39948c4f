// eventfd_basic: an eventfd adds what is written and gives it all back to one read; EAGAIN when empty or too full;
// readiness follows the count. It is how event loops are woken from other threads.
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>

static short ready(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT};
    CHECK(poll(&p, 1, 0) >= 0);
    return p.revents;
}

int main(void) {
    eventfd_t value;
    int fd = eventfd(3, EFD_NONBLOCK | EFD_CLOEXEC);
    CHECK(fd >= 0);
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    CHECK_EQ(fcntl(fd, F_GETFL), O_RDWR | O_NONBLOCK);
    CHECK_EQ(ready(fd), POLLIN | POLLOUT);
    CHECK_EQ(eventfd_read(fd, &value), 0);
    CHECK_EQ(value, 3);
    CHECK_ERR(eventfd_read(fd, &value), EAGAIN);
    CHECK_EQ(ready(fd), POLLOUT);
    puts("initial value, then empty");

    for (int i = 1; i <= 10; i++) CHECK_EQ(eventfd_write(fd, i), 0);
    CHECK_EQ(eventfd_read(fd, &value), 0);
    CHECK_EQ(value, 55);
    CHECK_EQ(eventfd_write(fd, 0), 0);
    CHECK_EQ(ready(fd), POLLOUT);
    puts("1 + ... + 10 = 55 in one read");

    CHECK_EQ(eventfd_write(fd, UINT64_MAX - 1), 0);
    CHECK_EQ(ready(fd), POLLIN);
    CHECK_ERR(eventfd_write(fd, 1), EAGAIN);
    CHECK_EQ(eventfd_read(fd, &value), 0);
    CHECK_EQ(value, UINT64_MAX - 1);
    CHECK_ERR(eventfd_write(fd, UINT64_MAX), EINVAL);
    puts("full at 2^64 - 2");

    char bytes[16] = {5};
    CHECK_ERR(write(fd, bytes, 7), EINVAL);
    CHECK_ERR(read(fd, bytes, 7), EINVAL);
    CHECK_EQ(write(fd, bytes, 8), 8);
    CHECK_EQ(read(fd, bytes, 16), 8);
    CHECK_EQ(bytes[0], 5);
    CHECK_ERR(eventfd(0, 0x10), EINVAL);
    puts("eight bytes at a time");
    return exit_success();
}
