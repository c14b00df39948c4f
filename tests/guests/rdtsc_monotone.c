// rdtsc_monotone: the time stamp counter, read by rdtsc and rdtscp, never goes back in a thread, moves on over a sleep,
// and a loop waiting for it ends. A trapped rdtsc must be a clock too, coherent with the others.
#include "check.h"
#include <x86intrin.h>

static uint64_t tsc(void) {
    _mm_lfence(); // not before the reads around it
    uint64_t value = __rdtsc();
    _mm_lfence();
    return value;
}

int main(void) {
    unsigned cpu;
    uint64_t last = tsc();
    for (int i = 0; i < 10000; i++) {
        uint64_t now = i % 2 ? tsc() : __rdtscp(&cpu);
        CHECK(now >= last);
        last = now;
    }
    puts("10000 reads, never back");

    uint64_t before = tsc();
    int64_t before_ns = now_ns(CLOCK_MONOTONIC);
    sleep_ms(20);
    uint64_t ticks = tsc() - before;
    int64_t ns = now_ns(CLOCK_MONOTONIC) - before_ns;
    CHECK(ticks > 0);
    CHECK(ticks / (double)ns > 0.1 && ticks / (double)ns < 20); // 0.1 to 20 GHz
    puts("moves on over a sleep, at a plausible rate");

    uint64_t end = tsc() + ticks; // another 20 ms or so
    while (tsc() < end) {}
    puts("a loop waiting for it ends");
    return exit_success();
}
