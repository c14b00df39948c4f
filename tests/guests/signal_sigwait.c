// signal_sigwait: blocked signals can be taken as values by sigwait, sigwaitinfo and sigtimedwait, with siginfo and a
// timeout, and a thread that waits gets those sent to the process. Many servers have one such signal thread.
#include "check.h"
#include <signal.h>

static sigset_t set;

static void *signal_thread(void *arg) {
    long got = 0;
    for (;;) {
        int signal;
        CHECK_EQ(sigwait(&set, &signal), 0);
        if (signal == SIGTERM) return (void *)got;
        CHECK_EQ(signal, SIGRTMIN + 1);
        got++;
    }
    return arg;
}

int main(void) {
    siginfo_t info;
    struct timespec zero = {0}, soon = timespec_of_ns(15 * NS_PER_MS), bad = {.tv_nsec = -1};
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGRTMIN + 1);
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, NULL), 0);

    int64_t start = now_ns(CLOCK_MONOTONIC);
    CHECK_ERR(sigtimedwait(&set, &info, &zero), EAGAIN);
    CHECK_ERR(sigtimedwait(&set, &info, &soon), EAGAIN);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 15 * NS_PER_MS);
    CHECK_ERR(sigtimedwait(&set, &info, &bad), EINVAL);
    puts("nothing pending: timed out, not early");

    int signal;
    CHECK_EQ(raise(SIGUSR1), 0);
    CHECK_EQ(sigwait(&set, &signal), 0);
    CHECK_EQ(signal, SIGUSR1);
    CHECK_EQ(kill(getpid(), SIGTERM), 0);
    CHECK_EQ(sigwaitinfo(&set, &info), SIGTERM);
    CHECK(info.si_signo == SIGTERM && info.si_code == SI_USER && info.si_pid == getpid());
    CHECK_EQ(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 41}), 0);
    CHECK_EQ(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 42}), 0);
    CHECK_EQ(sigtimedwait(&set, &info, &soon), SIGRTMIN + 1);
    CHECK(info.si_code == SI_QUEUE && info.si_value.sival_int == 41);
    CHECK_EQ(sigwaitinfo(&set, &info), SIGRTMIN + 1);
    CHECK_EQ(info.si_value.sival_int, 42);
    CHECK_ERR(sigtimedwait(&set, &info, &zero), EAGAIN);
    puts("pending ones taken, each once");

    pthread_t thread = spawn(signal_thread, NULL);
    for (int i = 0; i < 50; i++) CHECK_EQ(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = i}), 0);
    CHECK_EQ(pthread_kill(thread, SIGTERM), 0);
    long got = (long)join(thread);
    while (sigtimedwait(&set, &info, &zero) == SIGRTMIN + 1) got++; // SIGTERM overtakes
    printf("a signal thread and its heir took %ld\n", got);
    return exit_success();
}
