// epoll_exclusive: several epolls may watch one descriptor with EPOLLEXCLUSIVE; an event wakes at least one of the
// waiters, so no work is left lying. nginx workers share their listener this way. MOD and nesting are refused with it.
#include "check.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

enum { THREADS = 4 };
static int tokens;

static void *take_one(void *arg) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLEXCLUSIVE};
    int epoll = epoll_create1(0);
    CHECK(epoll >= 0);
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, tokens, &event), 0);
    for (;;) {
        eventfd_t value;
        CHECK_EQ(epoll_wait(epoll, &event, 1, 20000), 1);
        if (eventfd_read(tokens, &value) == 0) break;
        CHECK_EQ(errno, EAGAIN); // another one was faster
    }
    CHECK_EQ(close(epoll), 0);
    return arg;
}

int main(void) {
    int epoll = epoll_create1(0), inner = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN | EPOLLEXCLUSIVE};
    CHECK((tokens = eventfd(0, EFD_SEMAPHORE | EFD_NONBLOCK)) >= 0);
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, tokens, &event), 0);
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_MOD, tokens, &event), EINVAL);
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_ADD, inner, &event), EINVAL);
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_DEL, tokens, &event), 0);
    event.events |= EPOLLONESHOT;
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_ADD, tokens, &event), EINVAL);
    puts("refused: MOD, nesting, ONESHOT");

    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) threads[i] = spawn(take_one, NULL);
    for (int i = 0; i < THREADS; i++) {
        sleep_ms(2); // mostly all of them wait by now
        CHECK_EQ(eventfd_write(tokens, 1), 0);
    }
    for (int i = 0; i < THREADS; i++) join(threads[i]);
    printf("%d threads got one token each\n", THREADS);
    return exit_success();
}
