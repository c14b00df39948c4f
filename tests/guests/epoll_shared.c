// epoll_shared: several threads wait in one epoll; an edge-triggered or one-shot event wakes one of them, every event
// is taken by somebody, and none is taken twice. Thread pools around one epoll (Go's netpoller, Netty).
#include "check.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

enum { THREADS = 4, SOURCES = 8, ROUNDS = 50 };
static int epoll, sources[SOURCES], finished;
static long taken[SOURCES];

static void *worker(void *arg) {
    for (;;) {
        struct epoll_event event;
        eventfd_t value;
        CHECK_EQ(epoll_wait(epoll, &event, 1, 20000), 1);
        uint32_t i = event.data.u32;
        if (i == SOURCES) return arg;
        while (eventfd_read(sources[i], &value) == 0) __atomic_fetch_add(&taken[i], (long)value, __ATOMIC_SEQ_CST);
        CHECK_EQ(errno, EAGAIN);
        if (i % 2 == 0) continue;
        event.events = EPOLLIN | EPOLLONESHOT;
        CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_MOD, sources[i], &event), 0);
    }
}

int main(void) {
    pthread_t threads[THREADS];
    CHECK((epoll = epoll_create1(0)) >= 0);
    for (uint32_t i = 0; i < SOURCES; i++) {
        struct epoll_event event = {.events = EPOLLIN | (i % 2 ? EPOLLONESHOT : EPOLLET), .data.u32 = i};
        CHECK((sources[i] = eventfd(0, EFD_NONBLOCK)) >= 0);
        CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, sources[i], &event), 0);
    }
    for (int i = 0; i < THREADS; i++) threads[i] = spawn(worker, NULL);
    for (int round = 1; round <= ROUNDS; round++)
        for (int i = 0; i < SOURCES; i++) CHECK_EQ(eventfd_write(sources[i], (eventfd_t)round), 0);
    for (int i = 0; i < SOURCES; i++)
        while (__atomic_load_n(&taken[i], __ATOMIC_SEQ_CST) < ROUNDS * (ROUNDS + 1) / 2) sleep_ms(1);

    struct epoll_event event = {.events = EPOLLIN, .data.u32 = SOURCES}; // level-triggered: all of them see it
    CHECK((finished = eventfd(1, 0)) >= 0);
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, finished, &event), 0);
    long sum = 0;
    for (int i = 0; i < THREADS; i++) join(threads[i]);
    for (int i = 0; i < SOURCES; i++) sum += taken[i];
    printf("%d threads took %ld from %d sources\n", THREADS, sum, SOURCES);
    return exit_success();
}
