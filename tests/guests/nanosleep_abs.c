// nanosleep_abs: relative and absolute sleeps on both clocks end at or after their mark, a mark in the past returns at
// once, and senseless arguments are refused. Absolute sleeps keep periodic work free of drift.
#include "check.h"

static void check_absolute(clockid_t clock) {
    int64_t mark_ns = now_ns(clock);
    for (int i = 0; i < 4; i++) {
        mark_ns += 5 * NS_PER_MS;
        struct timespec mark = timespec_of_ns(mark_ns);
        CHECK_EQ(clock_nanosleep(clock, TIMER_ABSTIME, &mark, NULL), 0);
        CHECK(now_ns(clock) >= mark_ns);
    }
    struct timespec past = {.tv_sec = 1};
    CHECK_EQ(clock_nanosleep(clock, TIMER_ABSTIME, &past, NULL), 0);
}

int main(void) {
    check_absolute(CLOCK_MONOTONIC);
    check_absolute(CLOCK_REALTIME);
    check_absolute(CLOCK_BOOTTIME);
    puts("absolute sleeps reach their marks");

    struct timespec ten_ms = timespec_of_ns(10 * NS_PER_MS), zero = {0};
    int64_t start = now_ns(CLOCK_MONOTONIC);
    CHECK_EQ(clock_nanosleep(CLOCK_MONOTONIC, 0, &ten_ms, NULL), 0);
    CHECK_EQ(clock_nanosleep(CLOCK_REALTIME, 0, &ten_ms, NULL), 0);
    CHECK_EQ(nanosleep(&ten_ms, NULL), 0);
    CHECK_EQ(usleep(10000), 0);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 40 * NS_PER_MS);
    CHECK_EQ(nanosleep(&zero, NULL), 0);
    puts("relative sleeps are not short");

    struct timespec too_many_ns = {.tv_nsec = NS_PER_S}, negative = {.tv_sec = -1};
    CHECK_ERR(nanosleep(&too_many_ns, NULL), EINVAL);
    CHECK_ERR(nanosleep(&negative, NULL), EINVAL);
    CHECK_ERR(nanosleep((void *)1, NULL), EFAULT);
    CHECK_EQ(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &ten_ms, NULL), EINVAL);
    CHECK_EQ(clock_nanosleep(99, 0, &ten_ms, NULL), EINVAL);
    puts("refused: bad times, bad address, bad clocks");
    return exit_success();
}
