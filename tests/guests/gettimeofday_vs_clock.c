// gettimeofday_vs_clock: gettimeofday, time and clock_gettime(REALTIME) are one clock read in three units: reads in
// turn never disagree about the order of things. Servers mix them and assert on it.
#include "check.h"
#include <sys/time.h>

int main(void) {
    for (int i = 0; i < 20000; i++) {
        struct timeval day;
        struct timezone zone = {-1, -1};
        int64_t coarse_before_s = now_ns(CLOCK_REALTIME_COARSE) / NS_PER_S; // time() is as coarse as this
        int64_t before_us = now_ns(CLOCK_REALTIME) / 1000;
        CHECK_EQ(gettimeofday(&day, i % 2 ? &zone : NULL), 0);
        time_t stored, seconds = time(&stored);
        int64_t after_us = now_ns(CLOCK_REALTIME) / 1000;

        int64_t day_us = day.tv_sec * 1000000ll + day.tv_usec;
        CHECK(day.tv_usec >= 0 && day.tv_usec < 1000000);
        CHECK(before_us <= day_us && day_us <= after_us);
        CHECK_EQ(seconds, stored);
        CHECK(coarse_before_s <= seconds && seconds <= after_us / 1000000);
        if (i % 2) CHECK(zone.tz_minuteswest != -1);
    }
    puts("20000 times in order");

    int64_t seconds_2020 = 1577836800, now_s = time(NULL);
    CHECK(now_s > seconds_2020);
    puts("after 2020");
    return exit_success();
}
