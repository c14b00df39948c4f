// signal_sigsuspend: sigsuspend takes another mask, waits and puts the old one back in one step, so a signal that came
// before it is not lost; it always ends with EINTR, after the handler. The classic race-free wait.
#include "check.h"
#include <signal.h>

enum { ROUNDS = 200 };
static volatile int runs;
static volatile bool masked_inside;

static void on_signal(int signal) {
    sigset_t mask;
    sigprocmask(SIG_BLOCK, NULL, &mask);
    masked_inside = sigismember(&mask, signal) && !sigismember(&mask, SIGUSR2);
    runs++;
}

static void *send_and_wait(void *to) {
    for (int i = 0; i < ROUNDS; i++) {
        CHECK_EQ(pthread_kill(*(pthread_t *)to, SIGUSR1), 0);
        while (__atomic_load_n(&runs, __ATOMIC_SEQ_CST) == 2 + i) sleep_ms(0);
    }
    return NULL;
}

int main(void) {
    sigset_t none, all, blocked, now;
    sigemptyset(&none);
    sigfillset(&all);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigaddset(&blocked, SIGUSR2);
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    CHECK_EQ(sigprocmask(SIG_BLOCK, &blocked, NULL), 0);

    for (int i = 0; i < 2; i++) {
        CHECK_EQ(raise(SIGUSR1), 0);
        CHECK_EQ(runs, i);
        CHECK_ERR(sigsuspend(&none), EINTR);
        CHECK(runs == i + 1 && masked_inside);
        CHECK_EQ(sigprocmask(SIG_BLOCK, NULL, &now), 0);
        CHECK(sigismember(&now, SIGUSR1) && sigismember(&now, SIGUSR2) && !sigismember(&now, SIGHUP));
    }
    puts("pending before: runs at once, mask comes back");

    CHECK_EQ(pthread_sigmask(SIG_BLOCK, &all, &now), 0); // for the new thread
    pthread_t self = pthread_self(), sender = spawn(send_and_wait, &self);
    CHECK_EQ(pthread_sigmask(SIG_SETMASK, &now, NULL), 0);
    for (int i = 0; i < ROUNDS; i++) {
        CHECK_ERR(sigsuspend(&none), EINTR);
        CHECK_EQ(runs, 3 + i);
    }
    join(sender);
    printf("sent by another thread: %d waits, none lost\n", ROUNDS);
    return exit_success();
}
