// signal_self: a signal sent to oneself runs the handler before the call returns, with the right siginfo and with the
// signal and sa_mask blocked while it runs; SA_NODEFER lets it nest, SA_RESETHAND lets it run once.
#include "check.h"
#include <signal.h>

static volatile int runs, depth, deepest; // volatile: gcc thinks raise() leaves statics alone
static volatile struct { int signo, code, pid, uid; } info;
static volatile bool right_mask;

static void on_signal(int signal, siginfo_t *i, void *context) {
    (void)signal, (void)context;
    runs++;
    info.signo = i->si_signo, info.code = i->si_code, info.pid = i->si_pid, info.uid = i->si_uid;
    sigset_t mask;
    sigprocmask(SIG_BLOCK, NULL, &mask);
    right_mask = sigismember(&mask, SIGUSR1) && sigismember(&mask, SIGUSR2) && !sigismember(&mask, SIGHUP);
}

static void on_nested(int signal) {
    depth++;
    if (depth > deepest) deepest = depth;
    if (runs++ < 2) raise(signal);
    depth--;
}

static void install(int flags, void *handler) {
    struct sigaction action = {.sa_flags = flags};
    if (flags & SA_SIGINFO) action.sa_sigaction = handler;
    else action.sa_handler = handler;
    sigaddset(&action.sa_mask, SIGUSR2);
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    runs = depth = deepest = 0;
}

int main(void) {
    sigset_t mask;
    install(SA_SIGINFO, on_signal);
    CHECK_EQ(raise(SIGUSR1), 0);
    CHECK_EQ(runs, 1);
    CHECK(info.signo == SIGUSR1 && info.code == SI_TKILL && info.pid == getpid() && info.uid == getuid());
    CHECK(right_mask);
    CHECK_EQ(sigprocmask(SIG_BLOCK, NULL, &mask), 0);
    CHECK(!sigismember(&mask, SIGUSR1) && !sigismember(&mask, SIGUSR2));
    CHECK_EQ(kill(getpid(), SIGUSR1), 0);
    CHECK(runs == 2 && info.code == SI_USER && info.pid == getpid());
    puts("raise and kill: handler ran with the right siginfo and mask");

    install(0, on_nested);
    CHECK_EQ(raise(SIGUSR1), 0);
    printf("deferred: %d runs, %d deep\n", runs, deepest);
    install(SA_NODEFER, on_nested);
    CHECK_EQ(raise(SIGUSR1), 0);
    printf("SA_NODEFER: %d runs, %d deep\n", runs, deepest);

    install(SA_SIGINFO | SA_RESETHAND, on_signal);
    struct sigaction now;
    CHECK_EQ(raise(SIGUSR1), 0);
    CHECK_EQ(sigaction(SIGUSR1, NULL, &now), 0);
    CHECK(now.sa_handler == SIG_DFL && runs == 1);
    puts("SA_RESETHAND: once");

    CHECK(signal(SIGUSR1, SIG_IGN) == SIG_DFL);
    CHECK_EQ(raise(SIGUSR1), 0);
    CHECK_EQ(raise(SIGCHLD), 0); // ignored by default
    CHECK_EQ(raise(SIGWINCH), 0);
    CHECK_ERR(sigaction(SIGKILL, &now, NULL), EINVAL);
    CHECK_ERR(sigaction(65, NULL, &now), EINVAL);
    CHECK_ERR(kill(getpid(), 65), EINVAL);
    puts("ignored ones do nothing, senseless ones are refused");
    return exit_success();
}
