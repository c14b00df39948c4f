// futex_bitset: FUTEX_WAKE_BITSET wakes only waiters whose mask meets its own, and FUTEX_WAIT_BITSET's timeout is
// absolute, on the monotonic clock or, with FUTEX_CLOCK_REALTIME, on the real one. glibc's timed waits are this call.
#include "futex.h"

static uint32_t staging, word;

static void *wait_with_mask(void *mask) {
    CHECK_EQ(futex(&staging, FUTEX_WAIT_BITSET_PRIVATE, 0, NULL, NULL, (uint32_t)(uintptr_t)mask), 0);
    return mask;
}

static void check_timeout(clockid_t clock, int flag) {
    int64_t deadline_ns = now_ns(clock) + 20 * NS_PER_MS;
    struct timespec deadline = timespec_of_ns(deadline_ns);
    CHECK_ERR(futex(&word, FUTEX_WAIT_BITSET_PRIVATE | flag, 0, &deadline, NULL, FUTEX_BITSET_MATCH_ANY), ETIMEDOUT);
    CHECK(now_ns(clock) >= deadline_ns);
    struct timespec past = {.tv_sec = 1};
    CHECK_ERR(futex(&word, FUTEX_WAIT_BITSET_PRIVATE | flag, 0, &past, NULL, FUTEX_BITSET_MATCH_ANY), ETIMEDOUT);
}

static long wake_mask(uint32_t mask) {
    return futex(&word, FUTEX_WAKE_BITSET_PRIVATE, INT_MAX, NULL, NULL, mask);
}

int main(void) {
    CHECK_ERR(futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, NULL, NULL, 0), EINVAL);
    CHECK_ERR(wake_mask(0), EINVAL);
    check_timeout(CLOCK_MONOTONIC, 0);
    check_timeout(CLOCK_REALTIME, FUTEX_CLOCK_REALTIME);
    puts("absolute timeouts on both clocks");

    pthread_t waiters[3];
    for (uintptr_t i = 0; i < 3; i++) waiters[i] = spawn(wait_with_mask, (void *)(1ul << i));
    futex_move_surely(&staging, &word, 3);
    printf("mask 8 wakes %ld\n", wake_mask(8));
    printf("mask 2 wakes %ld\n", wake_mask(2));
    CHECK_EQ(join(waiters[1]), 2);
    printf("mask 2 again wakes %ld\n", wake_mask(2));
    printf("mask 5 wakes %ld\n", wake_mask(5));
    CHECK_EQ(join(waiters[0]), 1);
    CHECK_EQ(join(waiters[2]), 4);

    pthread_t plain = spawn(wait_with_mask, (void *)4ul);
    futex_move_surely(&staging, &word, 1);
    CHECK_EQ(futex_wake(&word, 1), 1);
    join(plain);
    puts("a plain wake meets every mask");
    return exit_success();
}
