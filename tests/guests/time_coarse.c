// time_coarse: the coarse clocks go forward in ticks, never ahead of the exact clock read after them and never back.
// Servers that log or expire by them (nginx, haproxy) compare them with exact readings.
#include "check.h"

static void check(clockid_t coarse_clock, clockid_t exact_clock, const char *name) {
    int64_t last = 0;
    for (int i = 0; i < 10000; i++) {
        int64_t coarse = now_ns(coarse_clock);
        int64_t exact = now_ns(exact_clock);
        CHECK(coarse >= last);
        CHECK(coarse <= exact);
        last = coarse;
    }
    int64_t before_sleep = now_ns(coarse_clock);
    sleep_ms(50); // more than any tick, which is at most 10 ms
    CHECK(now_ns(coarse_clock) - before_sleep >= 30 * NS_PER_MS);
    int64_t now = now_ns(coarse_clock);
    while (now_ns(coarse_clock) == now) {}
    printf("%s: never ahead, never back, and it moves\n", name);
}

int main(void) {
    check(CLOCK_MONOTONIC_COARSE, CLOCK_MONOTONIC, "monotonic");
    check(CLOCK_REALTIME_COARSE, CLOCK_REALTIME, "realtime");
    return exit_success();
}
