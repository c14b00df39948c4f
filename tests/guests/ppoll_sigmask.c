// ppoll_sigmask: ppoll waits under another signal mask and puts the old one back: a pending blocked signal interrupts
// it at once, a ready descriptor comes without the handler being lost.
#include "check.h"
#include <poll.h>
#include <signal.h>

static volatile int runs;
static void on_signal(int signal) { (void)signal, runs++; }

static void *kill_later(void *arg) {
    sleep_ms(10);
    CHECK_EQ(pthread_kill(*(pthread_t *)arg, SIGUSR1), 0);
    return NULL;
}

int main(void) {
    struct sigaction action = {.sa_handler = on_signal};
    struct timespec zero = {0}, long_time = {.tv_sec = 60};
    sigset_t usr1, none, now;
    int fds[2];
    CHECK_EQ(pipe(fds), 0);
    struct pollfd p = {.fd = fds[0], .events = POLLIN};
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    sigemptyset(&none);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, &usr1, NULL), 0);

    CHECK_EQ(raise(SIGUSR1), 0);
    CHECK_EQ(ppoll(&p, 1, &zero, &usr1), 0);
    CHECK_EQ(ppoll(&p, 1, &zero, NULL), 0);
    CHECK_EQ(runs, 0);
    CHECK_ERR(ppoll(&p, 1, NULL, &none), EINTR);
    CHECK_EQ(runs, 1);
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, NULL, &now), 0);
    CHECK(sigismember(&now, SIGUSR1));
    puts("pending: EINTR at once, mask put back");

    pthread_t self = pthread_self(), thread = spawn(kill_later, &self);
    CHECK_ERR(ppoll(&p, 1, &long_time, &none), EINTR);
    CHECK_EQ(runs, 2);
    join(thread);
    puts("sent while waiting: EINTR");

    CHECK_EQ(write(fds[1], "x", 1), 1);
    CHECK_EQ(ppoll(&p, 1, NULL, &none), 1);
    CHECK(p.revents == POLLIN && runs == 2);
    puts("data without a signal: data");
    return exit_success();
}
