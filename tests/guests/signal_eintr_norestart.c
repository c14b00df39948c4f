// signal_eintr_norestart: some calls never restart, not even with SA_RESTART: poll, select, epoll_wait, nanosleep,
// sigtimedwait, pause and reads with a receive timeout. Event loops see EINTR from them and must go round.
#include "check.h"
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>

static volatile int runs;
static void on_alarm(int signal) { (void)signal, runs++; }

#define CHECK_INTERRUPTED(call)                        \
    do {                                               \
        int before = runs;                             \
        CHECK_ERR(call, EINTR);                        \
        CHECK(runs > before);                          \
        puts(#call);                                   \
    } while (0)

int main(void) {
    int fds[2], epoll = epoll_create1(0);
    struct epoll_event event;
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    struct itimerval every_10_ms = {{.tv_usec = 10000}, {.tv_usec = 10000}};
    struct timespec long_time = {.tv_sec = 60};
    struct timeval long_timeval = {.tv_sec = 60};
    sigset_t usr1;
    fd_set set;
    char c;

    CHECK(epoll >= 0);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    CHECK_EQ(sigaction(SIGALRM, &action, NULL), 0);
    CHECK_EQ(setitimer(ITIMER_REAL, &every_10_ms, NULL), 0); // again and again: none can come too early for good
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    FD_ZERO(&set);
    FD_SET(fds[0], &set);
    struct pollfd pollfd = {.fd = fds[0], .events = POLLIN};

    CHECK_INTERRUPTED(poll(&pollfd, 1, 60000));
    CHECK_INTERRUPTED(poll(NULL, 0, -1));
    CHECK_INTERRUPTED(ppoll(&pollfd, 1, &long_time, NULL));
    CHECK_INTERRUPTED(select(fds[0] + 1, &set, NULL, NULL, &long_timeval));
    CHECK_INTERRUPTED(epoll_wait(epoll, &event, 1, 60000));
    CHECK_INTERRUPTED(epoll_wait(epoll, &event, 1, -1));
    CHECK_INTERRUPTED(nanosleep(&long_time, NULL));
    CHECK_INTERRUPTED(sigtimedwait(&usr1, NULL, &long_time));
    CHECK_INTERRUPTED(sigwaitinfo(&usr1, NULL));
    CHECK_INTERRUPTED(pause());
    long_timeval.tv_sec = 60;
    CHECK_EQ(setsockopt(fds[0], SOL_SOCKET, SO_RCVTIMEO, &long_timeval, sizeof long_timeval), 0);
    CHECK_INTERRUPTED(recv(fds[0], &c, 1, 0));
    return exit_success();
}
