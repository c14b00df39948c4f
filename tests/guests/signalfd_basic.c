// signalfd_basic: a signalfd gives blocked signals as records, is readable exactly while one is pending, takes several
// in one read and changes its set in place. systemd-style event loops read SIGTERM and SIGCHLD this way.
#include "check.h"
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>

static int readable(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    CHECK(poll(&p, 1, 0) >= 0);
    return p.revents == POLLIN;
}

static void *raise_later(void *arg) {
    sleep_ms(5);
    CHECK_EQ(kill(getpid(), SIGUSR1), 0);
    return arg;
}

int main(void) {
    struct signalfd_siginfo info[4];
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = 5};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGRTMIN);
    sigaddset(&set, SIGUSR2);
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, NULL), 0);
    sigdelset(&set, SIGUSR2);
    int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC), epoll = epoll_create1(0);
    CHECK(fd >= 0 && epoll >= 0);
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), 0);

    CHECK_ERR(read(fd, info, sizeof info), EAGAIN);
    CHECK_ERR(read(fd, info, sizeof info[0] - 1), EINVAL);
    CHECK(!readable(fd));
    CHECK_EQ(raise(SIGUSR1), 0);
    CHECK(readable(fd));
    CHECK_EQ(epoll_wait(epoll, &event, 1, 1000), 1);
    CHECK_EQ(event.data.u32, 5);
    CHECK_EQ(read(fd, info, sizeof info), sizeof info[0]);
    CHECK(info[0].ssi_signo == SIGUSR1 && info[0].ssi_pid == getpid() && info[0].ssi_code == SI_TKILL);
    CHECK(!readable(fd));
    CHECK_EQ(epoll_wait(epoll, &event, 1, 0), 0);
    puts("one signal, one record");

    CHECK_EQ(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 7}), 0);
    CHECK_EQ(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 8}), 0);
    CHECK_EQ(kill(getpid(), SIGUSR1), 0);
    CHECK_EQ(kill(getpid(), SIGUSR2), 0); // not in the set
    CHECK_EQ(read(fd, info, sizeof info), 3 * sizeof info[0]);
    CHECK_EQ(info[0].ssi_signo, SIGUSR1);
    CHECK(info[1].ssi_signo == SIGRTMIN && info[1].ssi_int == 7 && info[2].ssi_int == 8);
    puts("three signals in one read");

    CHECK(!readable(fd));
    sigaddset(&set, SIGUSR2);
    CHECK_EQ(signalfd(fd, &set, 0), fd);
    CHECK(readable(fd));
    CHECK_EQ(read(fd, info, sizeof info), sizeof info[0]);
    CHECK_EQ(info[0].ssi_signo, SIGUSR2);
    puts("set changed: the pending one appears");

    pthread_t thread = spawn(raise_later, NULL);
    CHECK_EQ(epoll_wait(epoll, &event, 1, 20000), 1);
    CHECK_EQ(read(fd, info, sizeof info), sizeof info[0]);
    join(thread);
    puts("epoll_wait woken by a signal from another thread");
    return exit_success();
}
