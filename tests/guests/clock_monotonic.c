// clock_monotonic: no clock that must not go back goes back, over 100,000 reads from one thread and between threads,
// and a sleep moves it on by at least its length. Coherent emulated time must keep this across batches and hosts.
#include "check.h"

enum { READS = 100000 };

static void *read_often(void *arg) {
    int64_t *last = arg;
    for (int i = 0; i < READS / 4; i++) {
        int64_t now = now_ns(CLOCK_MONOTONIC);
        CHECK(now >= *last);
        *last = now;
    }
    return NULL;
}

int main(void) {
    static const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME};
    int64_t start[3], last[3];
    for (int c = 0; c < 3; c++) start[c] = last[c] = now_ns(clocks[c]);
    for (int i = 0; i < READS; i++) {
        int64_t now = now_ns(clocks[i % 3]);
        CHECK(now >= last[i % 3]);
        last[i % 3] = now;
    }
    for (int c = 0; c < 3; c++) CHECK(last[c] > start[c]);
    printf("%d reads, never back, and forward in the end\n", READS);

    for (int i = 0; i < 3; i++) {
        int64_t before = now_ns(CLOCK_MONOTONIC), boot_before = now_ns(CLOCK_BOOTTIME);
        struct timespec five_ms = timespec_of_ns(5 * NS_PER_MS);
        CHECK_EQ(nanosleep(&five_ms, NULL), 0);
        CHECK(now_ns(CLOCK_MONOTONIC) - before >= 5 * NS_PER_MS);
        CHECK(now_ns(CLOCK_BOOTTIME) - boot_before >= 5 * NS_PER_MS);
    }
    puts("sleeps move it on");

    int64_t seen = now_ns(CLOCK_MONOTONIC);
    for (int i = 0; i < 4; i++) join(spawn(read_often, &seen));
    CHECK(now_ns(CLOCK_MONOTONIC) >= seen);
    puts("nor back between threads");
    return exit_success();
}
