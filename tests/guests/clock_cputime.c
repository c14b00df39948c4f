// clock_cputime: process and thread CPU clocks advance while computing, a loop waiting for 5 ms of CPU time ends, the
// process clock holds at least the thread's, and a sleep costs (nearly) nothing of it.
#include "check.h"

static volatile long sink;

static void burn_until(clockid_t clock, int64_t ns) {
    int64_t end = now_ns(clock) + ns;
    while (now_ns(clock) < end)
        for (int i = 0; i < 1000; i++) sink += i;
}

static void *burn_in_thread(void *arg) {
    int64_t start = now_ns(CLOCK_THREAD_CPUTIME_ID);
    burn_until(CLOCK_THREAD_CPUTIME_ID, 5 * NS_PER_MS);
    CHECK(now_ns(CLOCK_THREAD_CPUTIME_ID) - start >= 5 * NS_PER_MS);
    return arg;
}

int main(void) {
    int64_t last = 0;
    for (int i = 0; i < 1000; i++) {
        int64_t now = now_ns(CLOCK_PROCESS_CPUTIME_ID);
        CHECK(now >= last);
        last = now;
    }
    burn_until(CLOCK_PROCESS_CPUTIME_ID, 5 * NS_PER_MS);
    puts("process CPU clock passed 5 ms");

    int64_t process_before = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    join(spawn(burn_in_thread, NULL));
    CHECK(now_ns(CLOCK_PROCESS_CPUTIME_ID) - process_before >= 5 * NS_PER_MS);
    puts("a thread's 5 ms are the process's too");

    int64_t thread_time = now_ns(CLOCK_THREAD_CPUTIME_ID);
    CHECK(now_ns(CLOCK_PROCESS_CPUTIME_ID) >= thread_time);
    sleep_ms(100);
    CHECK(now_ns(CLOCK_THREAD_CPUTIME_ID) - thread_time < 100 * NS_PER_MS);
    puts("sleeping is not computing");

    clockid_t own;
    CHECK_EQ(pthread_getcpuclockid(pthread_self(), &own), 0);
    CHECK(now_ns(own) >= thread_time);
    CHECK(clock() != (clock_t)-1);
    return exit_success();
}
