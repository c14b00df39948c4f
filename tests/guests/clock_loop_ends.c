// clock_loop_ends: a loop that does nothing but wait for a clock to pass a mark ends: with clock_gettime,
// gettimeofday, time, and reads mixed with yields. If time only moved with input, such a loop would spin for ever.
#include "check.h"
#include <sched.h>
#include <sys/time.h>

static int64_t timeofday_us(void) {
    struct timeval t;
    CHECK_EQ(gettimeofday(&t, NULL), 0);
    return t.tv_sec * 1000000ll + t.tv_usec;
}

int main(void) {
    int64_t end = now_ns(CLOCK_MONOTONIC) + 20 * NS_PER_MS;
    while (now_ns(CLOCK_MONOTONIC) < end) {}
    puts("clock_gettime(MONOTONIC) passed 20 ms");

    end = now_ns(CLOCK_REALTIME) + 20 * NS_PER_MS;
    while (now_ns(CLOCK_REALTIME) < end) {}
    puts("clock_gettime(REALTIME) passed 20 ms");

    end = timeofday_us() + 20000;
    while (timeofday_us() < end) {}
    puts("gettimeofday passed 20 ms");

    end = now_ns(CLOCK_MONOTONIC_COARSE) + 20 * NS_PER_MS;
    while (now_ns(CLOCK_MONOTONIC_COARSE) < end) {}
    puts("clock_gettime(MONOTONIC_COARSE) passed 20 ms");

    end = now_ns(CLOCK_MONOTONIC) + 20 * NS_PER_MS;
    while (now_ns(CLOCK_MONOTONIC) < end) CHECK_EQ(sched_yield(), 0);
    puts("with yields between: passed 20 ms");

    time_t second = time(NULL);
    while (time(NULL) == second) {}
    puts("time passed into the next second");
    return exit_success();
}
