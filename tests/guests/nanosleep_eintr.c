// nanosleep_eintr: a signal handler ends a relative sleep with EINTR and the time that was left, even with SA_RESTART;
// an ignored signal does not. Sleep loops go on with what is left.
#include "check.h"
#include <signal.h>
#include <sys/time.h>

static volatile int alarms;
static void on_alarm(int signal) { (void)signal, alarms++; }

static void alarm_in_ms(int ms) {
    struct itimerval once = {.it_value.tv_usec = ms * 1000};
    CHECK_EQ(setitimer(ITIMER_REAL, &once, NULL), 0);
}

int main(void) {
    struct timespec left, thirty_seconds = {.tv_sec = 30};
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    CHECK_EQ(sigaction(SIGALRM, &action, NULL), 0);

    int64_t start = now_ns(CLOCK_MONOTONIC);
    alarm_in_ms(20);
    CHECK_ERR(nanosleep(&thirty_seconds, &left), EINTR);
    int64_t slept = now_ns(CLOCK_MONOTONIC) - start;
    int64_t left_ns = left.tv_sec * NS_PER_S + left.tv_nsec;
    CHECK_EQ(alarms, 1);
    CHECK(slept >= 20 * NS_PER_MS && slept < 29 * NS_PER_S);
    CHECK(left_ns > 0 && left_ns + slept >= 30 * NS_PER_S);
    puts("nanosleep: EINTR and the rest");

    alarm_in_ms(20);
    left = (struct timespec){0};
    CHECK_EQ(clock_nanosleep(CLOCK_MONOTONIC, 0, &thirty_seconds, &left), EINTR);
    left_ns = left.tv_sec * NS_PER_S + left.tv_nsec;
    CHECK(left_ns > 0);
    puts("clock_nanosleep: EINTR and the rest");

    struct timespec mark = timespec_of_ns(now_ns(CLOCK_MONOTONIC) + 30 * NS_PER_S);
    left = (struct timespec){.tv_sec = 77};
    alarm_in_ms(20);
    CHECK_EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &mark, &left), EINTR);
    CHECK_EQ(left.tv_sec, 77);
    puts("absolute: EINTR, the rest is not written");

    CHECK(signal(SIGALRM, SIG_IGN) != SIG_ERR);
    alarm_in_ms(10);
    struct timespec forty_ms = timespec_of_ns(40 * NS_PER_MS);
    CHECK_EQ(nanosleep(&forty_ms, NULL), 0);
    printf("ignored: slept on, %d alarms handled\n", alarms);
    return exit_success();
}
