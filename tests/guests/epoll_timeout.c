// epoll_timeout: epoll_wait returns 0 at or after its timeout, at once with 0, and waits with -1; epoll_pwait2 counts
// in nanoseconds; an event ends it before. Every event loop's idea of time hangs on this.
#include "check.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

static void *write_later(void *fd) {
    sleep_ms(20);
    CHECK_EQ(eventfd_write(*(int *)fd, 1), 0);
    return NULL;
}

int main(void) {
    struct epoll_event event = {.events = EPOLLIN}, got;
    int epoll = epoll_create1(0), fd = eventfd(0, 0);
    CHECK(epoll >= 0 && fd >= 0);
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), 0);

    static const int timeouts_ms[] = {0, 1, 5, 20};
    for (int i = 0; i < 4; i++) {
        int64_t start = now_ns(CLOCK_MONOTONIC);
        CHECK_EQ(epoll_wait(epoll, &got, 1, timeouts_ms[i]), 0);
        CHECK(now_ns(CLOCK_MONOTONIC) - start >= timeouts_ms[i] * NS_PER_MS);
        printf("%d ms: nothing, not early\n", timeouts_ms[i]);
    }
    struct timespec half_ms = {.tv_nsec = 500000};
    int64_t start = now_ns(CLOCK_MONOTONIC);
    for (int i = 0; i < 10; i++) {
        int n = epoll_pwait2(epoll, &got, 1, &half_ms, NULL);
        CHECK(n == 0 || (n == -1 && errno == ENOSYS));
        if (n == -1) nanosleep(&half_ms, NULL);
    }
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 5 * NS_PER_MS);
    puts("nanosecond timeouts, where there are any");

    for (int i = 0; i < 2; i++) {
        eventfd_t value;
        pthread_t thread = spawn(write_later, &fd);
        CHECK_EQ(epoll_wait(epoll, &got, 1, i ? -1 : 60000), 1);
        join(thread);
        CHECK_EQ(eventfd_read(fd, &value), 0);
    }
    puts("an event comes first");
    return exit_success();
}
