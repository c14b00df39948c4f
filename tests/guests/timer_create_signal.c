// timer_create_signal: POSIX timers send their signal with their own value (SI_TIMER), absolute or periodic, count
// overruns while it is blocked, and stop when deleted.
#include "check.h"
#include <signal.h>

static sigset_t set;

static siginfo_t take(void) {
    siginfo_t info;
    struct timespec long_time = {.tv_sec = 30};
    CHECK_EQ(sigtimedwait(&set, &info, &long_time), SIGRTMIN);
    CHECK_EQ(info.si_code, SI_TIMER);
    return info;
}

int main(void) {
    static int cookie_a, cookie_b;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_ptr = &cookie_a};
    struct itimerspec now, once = {.it_value = timespec_of_ns(15 * NS_PER_MS)}, off = {0};
    struct itimerspec periodic = {timespec_of_ns(5 * NS_PER_MS), timespec_of_ns(5 * NS_PER_MS)};
    struct timespec zero = {0};
    timer_t a, b;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, NULL), 0);
    CHECK_EQ(timer_create(CLOCK_MONOTONIC, &event, &a), 0);
    event.sigev_value.sival_ptr = &cookie_b;
    CHECK_EQ(timer_create(CLOCK_REALTIME, &event, &b), 0);

    int64_t start = now_ns(CLOCK_MONOTONIC);
    CHECK_EQ(timer_settime(a, 0, &once, NULL), 0);
    CHECK_EQ(timer_gettime(a, &now), 0);
    CHECK(now.it_value.tv_nsec > 0 && now.it_value.tv_nsec <= 15 * NS_PER_MS);
    CHECK(take().si_value.sival_ptr == &cookie_a);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 15 * NS_PER_MS);
    CHECK_EQ(timer_gettime(a, &now), 0);
    CHECK(now.it_value.tv_sec == 0 && now.it_value.tv_nsec == 0);
    puts("relative, once, with its value");

    int64_t mark = now_ns(CLOCK_REALTIME) + 15 * NS_PER_MS;
    once.it_value = timespec_of_ns(mark);
    CHECK_EQ(timer_settime(b, TIMER_ABSTIME, &once, NULL), 0);
    CHECK(take().si_value.sival_ptr == &cookie_b);
    CHECK(now_ns(CLOCK_REALTIME) >= mark);
    puts("absolute");

    CHECK_EQ(timer_settime(a, 0, &periodic, NULL), 0);
    start = now_ns(CLOCK_MONOTONIC);
    sleep_ms(32); // at least 6 expiries, one signal
    siginfo_t info = take();
    CHECK(info.si_overrun >= 5 && info.si_overrun == timer_getoverrun(a));
    for (int i = 0; i < 3; i++) CHECK(take().si_value.sival_ptr == &cookie_a);
    CHECK_EQ(timer_settime(a, 0, &off, &now), 0);
    CHECK_EQ(now.it_interval.tv_nsec, 5 * NS_PER_MS);
    puts("periodic, overruns counted");

    while (sigtimedwait(&set, &info, &zero) > 0) {} // one may have come just before
    CHECK_EQ(timer_delete(a), 0);
    CHECK_EQ(timer_delete(b), 0);
    sleep_ms(15);
    CHECK_ERR(sigtimedwait(&set, &info, &zero), EAGAIN);
    event.sigev_signo = 99;
    CHECK_ERR(timer_create(CLOCK_MONOTONIC, &event, &a), EINVAL);
    puts("deleted: silent");
    return exit_success();
}
