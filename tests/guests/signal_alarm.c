// signal_alarm: ITIMER_REAL and alarm(), which share one timer, send SIGALRM no earlier than asked, once or
// periodically, report what is left, and can be called off.
#include "check.h"
#include <signal.h>
#include <sys/time.h>

static volatile int runs;
static void on_alarm(int signal) { (void)signal, runs++; }

static struct itimerval timer_us(long first, long interval) {
    return (struct itimerval){.it_value.tv_usec = first, .it_interval.tv_usec = interval};
}

// Waits until the handler has run `count` times in all; the mask keeps test and wait together.
static void wait_for_runs(int count) {
    sigset_t alarm_set, old;
    sigemptyset(&alarm_set);
    sigaddset(&alarm_set, SIGALRM);
    CHECK_EQ(sigprocmask(SIG_BLOCK, &alarm_set, &old), 0);
    while (runs < count) sigsuspend(&old);
    CHECK_EQ(sigprocmask(SIG_SETMASK, &old, NULL), 0);
}

int main(void) {
    struct itimerval now, once = timer_us(20000, 0), periodic = timer_us(5000, 5000), off = {0};
    struct itimerval bad = timer_us(1000000, 0);
    CHECK(signal(SIGALRM, on_alarm) != SIG_ERR);

    int64_t start = now_ns(CLOCK_MONOTONIC);
    CHECK_EQ(setitimer(ITIMER_REAL, &once, NULL), 0);
    CHECK_EQ(getitimer(ITIMER_REAL, &now), 0);
    CHECK(now.it_value.tv_sec == 0 && now.it_value.tv_usec <= 20000 && now.it_interval.tv_usec == 0);
    wait_for_runs(1);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 20 * NS_PER_MS);
    CHECK_EQ(getitimer(ITIMER_REAL, &now), 0);
    CHECK(now.it_value.tv_sec == 0 && now.it_value.tv_usec == 0);
    puts("once, not early");

    start = now_ns(CLOCK_MONOTONIC);
    CHECK_EQ(setitimer(ITIMER_REAL, &periodic, NULL), 0);
    wait_for_runs(6);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 25 * NS_PER_MS);
    CHECK_EQ(setitimer(ITIMER_REAL, &off, &now), 0);
    CHECK_EQ(now.it_interval.tv_usec, 5000);
    int after_off = runs;
    sleep_ms(20);
    CHECK_EQ(runs, after_off);
    puts("periodic, then off");

    CHECK_EQ(alarm(100), 0);
    CHECK_EQ(getitimer(ITIMER_REAL, &now), 0);
    CHECK(now.it_value.tv_sec >= 80 && now.it_value.tv_sec <= 100);
    unsigned left = alarm(0);
    CHECK(left > 80 && left <= 100);
    CHECK_EQ(alarm(0), 0);
    puts("alarm: same timer, what is left");

    CHECK_ERR(setitimer(ITIMER_REAL, &bad, NULL), EINVAL);
    CHECK_ERR(setitimer(9, &off, NULL), EINVAL);
    return exit_success();
}
