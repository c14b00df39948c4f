// epoll_oneshot: EPOLLONESHOT reports once and then sleeps, hang-ups too, until MOD arms it again, which finds what
// came meanwhile. Thread pools share one epoll that way: no two threads get the same connection.
#include "check.h"
#include <sys/epoll.h>
#include <sys/socket.h>

enum { THREADS = 4, MESSAGES = 200 };
static int epoll, fds[2], inside, taken;

static int ready(void) {
    struct epoll_event event;
    return epoll_wait(epoll, &event, 1, 0);
}

static void *worker(void *arg) {
    for (;;) {
        struct epoll_event event;
        char c;
        CHECK_EQ(epoll_wait(epoll, &event, 1, 20000), 1);
        CHECK_EQ(__atomic_fetch_add(&inside, 1, __ATOMIC_SEQ_CST), 0); // alone with this descriptor
        ssize_t n = read(fds[0], &c, 1);
        CHECK(n >= 0);
        taken += (int)n;
        __atomic_fetch_sub(&inside, 1, __ATOMIC_SEQ_CST);
        event.events = EPOLLIN | EPOLLONESHOT;
        CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_MOD, fds[0], &event), 0);
        if (n == 0) return arg; // end of file stays: the next worker sees it too
    }
}

int main(void) {
    char buffer[8];
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT};
    CHECK((epoll = epoll_create1(0)) >= 0);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, fds[0], &event), 0);
    CHECK_EQ(ready(), 0);
    CHECK_EQ(write(fds[1], "a", 1), 1);
    CHECK_EQ(ready(), 1);
    CHECK_EQ(ready(), 0);
    CHECK_EQ(write(fds[1], "b", 1), 1);
    CHECK_EQ(ready(), 0);
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_MOD, fds[0], &event), 0);
    CHECK_EQ(ready(), 1);
    CHECK_EQ(read(fds[0], buffer, 8), 2);
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_MOD, fds[0], &event), 0);
    CHECK_EQ(ready(), 0);
    puts("once per arming");

    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) threads[i] = spawn(worker, NULL);
    for (int i = 0; i < MESSAGES; i++) CHECK_EQ(write(fds[1], "m", 1), 1);
    CHECK_EQ(close(fds[1]), 0);
    for (int i = 0; i < THREADS; i++) join(threads[i]);
    printf("%d threads took %d messages, one at a time\n", THREADS, taken);
    return exit_success();
}
