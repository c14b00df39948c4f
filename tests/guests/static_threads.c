// static_threads: threads, mutexes, thread-local storage and an epoll loop in a statically linked program.
#include "check.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

enum { THREADS = 6, ROUNDS = 500 };
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static __thread int local = 5;
static long counter;
static int event;

static void *count(void *arg) {
    for (int i = 0; i < ROUNDS; i++) {
        CHECK_EQ(pthread_mutex_lock(&mutex), 0);
        counter++;
        CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
        local++;
    }
    CHECK_EQ(local, 5 + ROUNDS);
    CHECK_EQ(eventfd_write(event, 1), 0);
    return arg;
}

int main(void) {
    pthread_t threads[THREADS];
    struct epoll_event ready = {.events = EPOLLIN};
    int epoll = epoll_create1(0);
    CHECK((event = eventfd(0, EFD_SEMAPHORE)) >= 0 && epoll >= 0);
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, event, &ready), 0);
    for (int i = 0; i < THREADS; i++) threads[i] = spawn(count, NULL);
    for (int i = 0; i < THREADS; i++) {
        eventfd_t one;
        CHECK_EQ(epoll_wait(epoll, &ready, 1, 20000), 1);
        CHECK_EQ(eventfd_read(event, &one), 0);
    }
    for (int i = 0; i < THREADS; i++) join(threads[i]);
    printf("%d threads counted to %ld\n", THREADS, counter);
    return exit_success();
}
