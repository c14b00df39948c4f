// clock_getres: every clock has a resolution above 0 and at most 10 ms, and an unknown clock is refused by every
// call: programs probe clocks this way at start.
#include "check.h"

int main(void) {
    static const struct { clockid_t clock; const char *name; } clocks[] = {
        {CLOCK_REALTIME, "realtime"},           {CLOCK_MONOTONIC, "monotonic"},
        {CLOCK_MONOTONIC_RAW, "monotonic raw"}, {CLOCK_BOOTTIME, "boottime"},
        {CLOCK_REALTIME_COARSE, "realtime coarse"}, {CLOCK_MONOTONIC_COARSE, "monotonic coarse"},
        {CLOCK_PROCESS_CPUTIME_ID, "process cpu"},  {CLOCK_THREAD_CPUTIME_ID, "thread cpu"},
        {CLOCK_TAI, "tai"},
    };
    struct timespec t;
    for (size_t i = 0; i < sizeof clocks / sizeof *clocks; i++) {
        CHECK_EQ(clock_getres(clocks[i].clock, &t), 0);
        CHECK(t.tv_sec == 0 && t.tv_nsec > 0 && t.tv_nsec <= 10 * NS_PER_MS);
        CHECK_EQ(clock_getres(clocks[i].clock, NULL), 0);
        CHECK_EQ(clock_gettime(clocks[i].clock, &t), 0);
        CHECK(t.tv_sec >= 0 && t.tv_nsec >= 0 && t.tv_nsec < NS_PER_S);
        puts(clocks[i].name);
    }
    CHECK_ERR(clock_getres(99, &t), EINVAL);
    CHECK_ERR(clock_gettime(99, &t), EINVAL);
    CHECK_ERR(clock_settime(CLOCK_MONOTONIC, &t), EINVAL);
    puts("unknown clocks and setting the monotonic one: refused");
    return exit_success();
}
