// signal_mask_pending: blocked signals stay pending, a standard one only once, and are delivered before the call that
// unblocks them returns, lowest number first; ignoring a pending signal discards it.
#include "check.h"
#include <signal.h>

static volatile int order[16], runs;
static void on_signal(int signal) { order[runs++] = signal; }

static void mask(int how, int a, int b, int c) {
    sigset_t set;
    sigemptyset(&set);
    int signals[] = {a, b, c};
    for (int i = 0; i < 3; i++)
        if (signals[i]) sigaddset(&set, signals[i]);
    CHECK_EQ(sigprocmask(how, &set, NULL), 0);
}

static bool pending(int signal) {
    sigset_t set;
    CHECK_EQ(sigpending(&set), 0);
    return sigismember(&set, signal);
}

int main(void) {
    struct sigaction action = {.sa_handler = on_signal};
    sigfillset(&action.sa_mask); // one handler at a time: the order is the order of delivery
    static const int used[] = {SIGHUP, SIGUSR1, SIGUSR2};
    for (int i = 0; i < 3; i++) CHECK_EQ(sigaction(used[i], &action, NULL), 0);

    mask(SIG_BLOCK, SIGHUP, SIGUSR1, SIGUSR2);
    for (int i = 0; i < 3; i++) CHECK_EQ(kill(getpid(), SIGUSR1), 0);
    CHECK_EQ(kill(getpid(), SIGUSR2), 0);
    CHECK_EQ(kill(getpid(), SIGHUP), 0);
    CHECK(runs == 0 && pending(SIGUSR1) && pending(SIGUSR2) && pending(SIGHUP) && !pending(SIGALRM));
    puts("blocked: pending, not run");

    mask(SIG_UNBLOCK, SIGUSR2, 0, 0);
    CHECK(runs == 1 && order[0] == SIGUSR2 && !pending(SIGUSR2) && pending(SIGUSR1));
    puts("one unblocked: it alone ran");

    mask(SIG_SETMASK, 0, 0, 0);
    CHECK(runs == 3 && order[1] == SIGHUP && order[2] == SIGUSR1);
    puts("all unblocked: one run each, lowest number first");

    struct sigaction open_action = {.sa_handler = on_signal}; // handlers may interrupt each other
    for (int i = 0; i < 3; i++) CHECK_EQ(sigaction(used[i], &open_action, NULL), 0);
    mask(SIG_BLOCK, SIGHUP, SIGUSR1, SIGUSR2);
    for (int i = 0; i < 3; i++) CHECK_EQ(kill(getpid(), used[i]), 0);
    mask(SIG_SETMASK, 0, 0, 0);
    CHECK(runs == 6 && order[3] == SIGUSR2 && order[4] == SIGUSR1 && order[5] == SIGHUP);
    puts("not masking each other: frames stack up, the last one runs first");

    mask(SIG_BLOCK, SIGUSR1, 0, 0);
    CHECK_EQ(raise(SIGUSR1), 0);
    CHECK(pending(SIGUSR1));
    CHECK(signal(SIGUSR1, SIG_IGN) != SIG_ERR);
    CHECK(!pending(SIGUSR1));
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    mask(SIG_UNBLOCK, SIGUSR1, 0, 0);
    CHECK_EQ(runs, 6);
    puts("ignored while pending: gone");

    mask(SIG_BLOCK, SIGKILL, SIGSTOP, 0); // accepted and without effect
    sigset_t now;
    CHECK_EQ(sigprocmask(SIG_BLOCK, NULL, &now), 0);
    CHECK(!sigismember(&now, SIGKILL) && !sigismember(&now, SIGSTOP));
    CHECK_ERR(sigprocmask(77, &now, NULL), EINVAL);
    puts("SIGKILL and SIGSTOP can't be blocked");
    return exit_success();
}
