// tcp_signal_quit: SIGTERM ends an epoll loop cleanly: the handler sets a flag, epoll_pwait lets the signal in only
// while it waits, clients get a farewell. The server sends the signal to itself on "term", so that it comes in order.
#include "net.h"
#include <sys/epoll.h>

static volatile sig_atomic_t terminating;
static void on_term(int signal) { (void)signal, terminating = 1; }

int main(int argc, char **argv) {
    int listener = tcp_listen(argc, argv, 0), epoll = epoll_create1(0), clients[10], count = 0;
    struct sigaction action = {.sa_handler = on_term};
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    sigset_t blocked, while_waiting;
    char line[100];
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    CHECK_EQ(sigprocmask(SIG_BLOCK, &blocked, &while_waiting), 0);
    CHECK_EQ(sigaction(SIGTERM, &action, NULL), 0);
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event), 0);
    while (!terminating) {
        int n = epoll_pwait(epoll, &event, 1, -1, &while_waiting);
        if (n == -1) {
            CHECK_EQ(errno, EINTR);
            puts("interrupted");
            continue;
        }
        CHECK_EQ(n, 1);
        if (event.data.fd == listener) {
            CHECK(count < 10);
            event = (struct epoll_event){.events = EPOLLIN, .data.fd = clients[count++] = tcp_accept(listener)};
            CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, event.data.fd, &event), 0);
            continue;
        }
        CHECK(read_line(event.data.fd, line, sizeof line));
        reply(event.data.fd, "ok %s", line);
        if (strcmp(line, "term") == 0) {
            CHECK_EQ(kill(getpid(), SIGTERM), 0);
            CHECK(!terminating); // it is blocked until we wait
        }
    }
    for (int i = 0; i < count; i++) {
        reply(clients[i], "farewell");
        CHECK_EQ(close(clients[i]), 0);
    }
    printf("terminated with %d clients\n", count);
    return exit_success();
}
