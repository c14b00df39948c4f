// futex_wait_timeout: FUTEX_WAIT compares before it sleeps (EAGAIN), times out no earlier than asked (ETIMEDOUT),
// and returns 0 when woken in time. Every lock and condition variable of every runtime stands on this.
#include "futex.h"

static uint32_t word = 7;

static void *wait_long(void *arg) {
    struct timespec ten_seconds = {.tv_sec = 10};
    CHECK_EQ(futex_wait(&word, 7, &ten_seconds), 0);
    return arg;
}

int main(void) {
    struct timespec soon = timespec_of_ns(20 * NS_PER_MS), zero = {0};
    struct timespec bad = {.tv_nsec = NS_PER_S}, negative = {.tv_sec = -1};

    CHECK_ERR(futex_wait(&word, 8, NULL), EAGAIN);
    CHECK_ERR(futex_wait(&word, 8, &soon), EAGAIN);
    CHECK_ERR(futex_wait(&word, 7, &bad), EINVAL);
    CHECK_ERR(futex_wait(&word, 7, &negative), EINVAL);
    CHECK_ERR(futex_wait((uint32_t *)((char *)&word + 1), 7, &soon), EINVAL);
    CHECK_ERR(futex_wait(NULL, 7, &soon), EFAULT);
    CHECK_ERR(futex(&word, 63, 0, NULL, NULL, 0), ENOSYS);
    puts("refused: changed value, bad time, bad address, unknown operation");

    int64_t start = now_ns(CLOCK_MONOTONIC);
    CHECK_ERR(futex_wait(&word, 7, &zero), ETIMEDOUT);
    CHECK_ERR(futex_wait(&word, 7, &soon), ETIMEDOUT);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 20 * NS_PER_MS);
    puts("timed out, not early");

    CHECK_EQ(futex_wake(&word, 1), 0);
    CHECK_EQ(futex_wake(&word, INT_MAX), 0);
    puts("wake of nobody: 0");

    pthread_t waiter = spawn(wait_long, NULL);
    futex_wake_one_surely(&word);
    join(waiter);
    CHECK_EQ(futex_wake(&word, 1), 0);
    puts("woken before the timeout: 0");
    return exit_success();
}
