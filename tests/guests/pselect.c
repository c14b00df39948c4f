// pselect: like select, with nanoseconds that are not written back and a signal mask for the time of the wait.
#include "check.h"
#include <signal.h>
#include <sys/select.h>

static volatile int runs;
static void on_signal(int signal) { (void)signal, runs++; }

static void *kill_later(void *arg) {
    sleep_ms(10);
    CHECK_EQ(pthread_kill(*(pthread_t *)arg, SIGUSR1), 0);
    return NULL;
}

int main(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    struct timespec timeout = {.tv_nsec = 7500000}, long_time = {.tv_sec = 60};
    sigset_t usr1, none, now;
    fd_set set;
    int fds[2];
    CHECK_EQ(pipe(fds), 0);
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    sigemptyset(&none);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, &usr1, NULL), 0);

    FD_ZERO(&set);
    FD_SET(fds[0], &set);
    int64_t start = now_ns(CLOCK_MONOTONIC);
    CHECK_EQ(pselect(fds[0] + 1, &set, NULL, NULL, &timeout, NULL), 0);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 7500000 && timeout.tv_nsec == 7500000);
    puts("7.5 ms: not early, not written back");

    CHECK_EQ(raise(SIGUSR1), 0);
    CHECK_EQ(pselect(0, NULL, NULL, NULL, &timeout, &usr1), 0);
    CHECK_EQ(runs, 0);
    CHECK_ERR(pselect(0, NULL, NULL, NULL, NULL, &none), EINTR);
    CHECK_EQ(runs, 1);
    pthread_t self = pthread_self(), thread = spawn(kill_later, &self);
    CHECK_ERR(pselect(0, NULL, NULL, NULL, &long_time, &none), EINTR);
    CHECK_EQ(runs, 2);
    join(thread);
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, NULL, &now), 0);
    CHECK(sigismember(&now, SIGUSR1));
    puts("signals come in only while it waits");

    CHECK_EQ(write(fds[1], "x", 1), 1);
    FD_ZERO(&set);
    FD_SET(fds[0], &set);
    CHECK_EQ(pselect(fds[0] + 1, &set, NULL, NULL, NULL, &none), 1);
    CHECK(FD_ISSET(fds[0], &set));
    puts("data: ready");
    return exit_success();
}
