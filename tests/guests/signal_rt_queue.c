// signal_rt_queue: real-time signals queue, each with its value, in order of sending and the lowest number first, while
// standard ones merge. Timers, aio and the JVM count on none being lost.
#include "check.h"
#include <signal.h>

static volatile int signals[16], values[16], codes[16], runs;

static void on_signal(int signal, siginfo_t *info, void *context) {
    (void)context;
    signals[runs] = signal;
    values[runs] = info->si_value.sival_int;
    codes[runs++] = info->si_code;
}

int main(void) {
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    sigfillset(&action.sa_mask);
    int used[] = {SIGRTMIN, SIGRTMIN + 3, SIGUSR1};
    sigset_t set, old;
    sigemptyset(&set);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(sigaction(used[i], &action, NULL), 0);
        sigaddset(&set, used[i]);
    }

    CHECK_EQ(sigprocmask(SIG_BLOCK, &set, &old), 0);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_int = 30 + i}), 0);
        CHECK_EQ(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 10 + i}), 0);
        CHECK_EQ(sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = i}), 0);
    }
    CHECK_EQ(runs, 0);
    CHECK_EQ(sigprocmask(SIG_SETMASK, &old, NULL), 0);

    for (int i = 0; i < runs; i++) {
        CHECK_EQ(codes[i], SI_QUEUE);
        printf("%s %d\n", signals[i] == SIGUSR1 ? "USR1" : signals[i] == SIGRTMIN ? "RTMIN" : "RTMIN+3", values[i]);
    }
    CHECK_EQ(runs, 7);
    return exit_success();
}
