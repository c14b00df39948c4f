// mutex_contention: threads that fight for one mutex lose no update, and the mutex kinds give their own errors. A lost
// futex wake shows here as a hang, a broken exclusion as a wrong sum.
#include "check.h"
#include <sched.h>

enum { THREADS = 8, ROUNDS = 2000 };
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static volatile long counter; // volatile: read and write stay apart

static void *count(void *arg) {
    for (int i = 0; i < ROUNDS; i++) {
        CHECK_EQ(pthread_mutex_lock(&mutex), 0);
        long seen = counter;
        if (i % 64 == 0) sched_yield(); // lose the turn while holding the lock
        counter = seen + 1;
        CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
    }
    return arg;
}

static void *find_it_locked(void *arg) {
    CHECK_EQ(pthread_mutex_trylock(&mutex), EBUSY);
    int64_t deadline_ns = now_ns(CLOCK_REALTIME) + 10 * NS_PER_MS;
    struct timespec deadline = timespec_of_ns(deadline_ns);
    CHECK_EQ(pthread_mutex_timedlock(&mutex, &deadline), ETIMEDOUT);
    CHECK(now_ns(CLOCK_REALTIME) >= deadline_ns);
    deadline_ns = now_ns(CLOCK_MONOTONIC) + 10 * NS_PER_MS;
    deadline = timespec_of_ns(deadline_ns);
    CHECK_EQ(pthread_mutex_clocklock(&mutex, CLOCK_MONOTONIC, &deadline), ETIMEDOUT);
    CHECK(now_ns(CLOCK_MONOTONIC) >= deadline_ns);
    return arg;
}

int main(void) {
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) threads[i] = spawn(count, NULL);
    for (int i = 0; i < THREADS; i++) join(threads[i]);
    printf("counted %ld of %d\n", counter, THREADS * ROUNDS);

    CHECK_EQ(pthread_mutex_lock(&mutex), 0);
    join(spawn(find_it_locked, NULL));
    CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
    puts("held: EBUSY, ETIMEDOUT");

    pthread_mutexattr_t attr;
    pthread_mutex_t other;
    CHECK_EQ(pthread_mutexattr_init(&attr), 0);
    CHECK_EQ(pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK), 0);
    CHECK_EQ(pthread_mutex_init(&other, &attr), 0);
    CHECK_EQ(pthread_mutex_unlock(&other), EPERM);
    CHECK_EQ(pthread_mutex_lock(&other), 0);
    CHECK_EQ(pthread_mutex_lock(&other), EDEADLK);
    CHECK_EQ(pthread_mutex_unlock(&other), 0);
    CHECK_EQ(pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE), 0);
    CHECK_EQ(pthread_mutex_init(&other, &attr), 0);
    for (int i = 0; i < 3; i++) CHECK_EQ(pthread_mutex_lock(&other), 0);
    for (int i = 0; i < 3; i++) CHECK_EQ(pthread_mutex_unlock(&other), 0);
    CHECK_EQ(pthread_mutex_unlock(&other), EPERM);
    puts("errorcheck and recursive kinds");
    return exit_success();
}
