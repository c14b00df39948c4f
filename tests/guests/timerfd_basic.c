// timerfd_basic: timerfds fire relative or absolute, once or periodically with the number of expiries in one read, tell
// the time left, and can be disarmed. Event loops keep their timers in them.
#include "check.h"
#include <poll.h>
#include <sys/timerfd.h>

static uint64_t expiries(int fd) {
    uint64_t count = 0;
    CHECK_EQ(read(fd, &count, sizeof count), sizeof count);
    return count;
}

int main(void) {
    uint64_t count;
    struct itimerspec now, once = {.it_value = timespec_of_ns(15 * NS_PER_MS)}, off = {0};
    struct itimerspec periodic = {timespec_of_ns(5 * NS_PER_MS), timespec_of_ns(10 * NS_PER_MS)};
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC), real = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK);
    CHECK(fd >= 0 && real >= 0);

    int64_t start = now_ns(CLOCK_MONOTONIC);
    CHECK_EQ(timerfd_settime(fd, 0, &once, NULL), 0);
    CHECK_EQ(timerfd_gettime(fd, &now), 0);
    CHECK(now.it_value.tv_nsec > 0 && now.it_value.tv_nsec <= 15 * NS_PER_MS);
    CHECK_EQ(expiries(fd), 1);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 15 * NS_PER_MS);
    CHECK_EQ(timerfd_gettime(fd, &now), 0);
    CHECK(now.it_value.tv_nsec == 0 && now.it_interval.tv_nsec == 0);
    puts("relative: once, not early");

    int64_t mark = now_ns(CLOCK_REALTIME) + 10 * NS_PER_MS;
    once.it_value = timespec_of_ns(mark);
    CHECK_EQ(timerfd_settime(real, TFD_TIMER_ABSTIME, &once, NULL), 0);
    while (read(real, &count, sizeof count) == -1) CHECK_EQ(errno, EAGAIN); // polls: time must pass all the same
    CHECK(count == 1 && now_ns(CLOCK_REALTIME) >= mark);
    once.it_value = (struct timespec){.tv_sec = 1}; // long ago
    CHECK_EQ(timerfd_settime(real, TFD_TIMER_ABSTIME, &once, NULL), 0);
    CHECK_EQ(expiries(real), 1);
    puts("absolute: not early; in the past: at once");

    start = now_ns(CLOCK_MONOTONIC);
    CHECK_EQ(timerfd_settime(fd, 0, &periodic, NULL), 0);
    uint64_t total = expiries(fd);
    CHECK(total >= 1);
    sleep_ms(17);
    count = expiries(fd);
    CHECK(count >= 3);
    total += count + expiries(fd);
    int64_t passed = now_ns(CLOCK_MONOTONIC) - start;
    CHECK(passed >= (int64_t)(10 + 5 * (total - 1)) * NS_PER_MS);
    puts("periodic: expiries are counted, never ahead of time");

    once.it_value = (struct timespec){.tv_sec = INT64_MAX};
    for (int flags = 0; flags <= TFD_TIMER_ABSTIME; flags++) {
        CHECK_EQ(timerfd_settime(real, flags, &once, NULL), 0);
        sleep_ms(5);
        CHECK_ERR(read(real, &count, sizeof count), EAGAIN);
    }
    struct itimerspec then_never = {.it_interval.tv_sec = INT64_MAX, .it_value = timespec_of_ns(NS_PER_MS)};
    CHECK_EQ(timerfd_settime(fd, 0, &then_never, NULL), 0);
    CHECK_EQ(expiries(fd), 1);
    struct pollfd again = {.fd = fd, .events = POLLIN};
    CHECK_EQ(poll(&again, 1, 5), 0);
    CHECK_EQ(timerfd_settime(fd, 0, &periodic, NULL), 0);
    puts("beyond all time: never");

    CHECK_EQ(timerfd_settime(fd, 0, &off, &now), 0);
    CHECK_EQ(now.it_interval.tv_nsec, 5 * NS_PER_MS);
    CHECK_EQ(timerfd_settime(real, 0, &off, NULL), 0);
    CHECK_ERR(read(real, &count, sizeof count), EAGAIN);
    CHECK_ERR(read(fd, &count, 4), EINVAL);
    CHECK_ERR(timerfd_create(99, 0), EINVAL);
    once.it_value.tv_nsec = NS_PER_S;
    CHECK_ERR(timerfd_settime(fd, 0, &once, NULL), EINVAL);
    CHECK_ERR(timerfd_settime(0, 0, &off, NULL), EINVAL);
    puts("disarmed; senseless times refused");
    return exit_success();
}
