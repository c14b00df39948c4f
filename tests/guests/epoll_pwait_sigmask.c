// epoll_pwait_sigmask: epoll_pwait waits under another signal mask, so a signal blocked elsewhere interrupts it (EINTR)
// and only it; a signal already pending does so at once. The race-free way for servers to notice SIGTERM.
#include "check.h"
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

static volatile int runs;
static void on_signal(int signal) { (void)signal, runs++; }

static void *kill_later(void *arg) {
    sleep_ms(10);
    CHECK_EQ(pthread_kill(*(pthread_t *)arg, SIGUSR1), 0);
    return NULL;
}

int main(void) {
    struct epoll_event event = {.events = EPOLLIN};
    struct sigaction action = {.sa_handler = on_signal};
    sigset_t usr1, none, now;
    int epoll = epoll_create1(0), fd = eventfd(0, 0);
    CHECK(epoll >= 0 && fd >= 0);
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), 0);
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    sigemptyset(&none);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, &usr1, NULL), 0);

    CHECK_EQ(raise(SIGUSR1), 0);
    CHECK_EQ(epoll_wait(epoll, &event, 1, 10), 0);
    CHECK_EQ(epoll_pwait(epoll, &event, 1, 10, &usr1), 0);
    CHECK_EQ(runs, 0);
    CHECK_ERR(epoll_pwait(epoll, &event, 1, -1, &none), EINTR);
    CHECK_EQ(runs, 1);
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, NULL, &now), 0);
    CHECK(sigismember(&now, SIGUSR1));
    puts("pending: EINTR at once, mask put back");

    pthread_t self = pthread_self(), thread = spawn(kill_later, &self);
    CHECK_ERR(epoll_pwait(epoll, &event, 1, 60000, &none), EINTR);
    CHECK_EQ(runs, 2);
    join(thread);
    puts("sent while waiting: EINTR");

    CHECK_EQ(eventfd_write(fd, 1), 0);
    CHECK_EQ(epoll_pwait(epoll, &event, 1, -1, &none), 1);
    CHECK_EQ(runs, 2);
    puts("an event without a signal: the event");
    return exit_success();
}
