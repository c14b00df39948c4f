// semaphore: POSIX semaphores count, block at zero, time out on their clock, and hand over between threads: the
// 64-bit futex words of glibc's sem_t, which JVMs and Python locks use.
#include "check.h"
#include <semaphore.h>

enum { ROUNDS = 500 };
static sem_t ping, pong;
static int turns;

static void *answer(void *arg) {
    for (int i = 0; i < ROUNDS; i++) {
        CHECK_EQ(sem_wait(&ping), 0);
        CHECK_EQ(turns % 2, 1);
        turns++;
        CHECK_EQ(sem_post(&pong), 0);
    }
    return arg;
}

int main(void) {
    sem_t sem;
    int value;
    CHECK_EQ(sem_init(&sem, 0, 2), 0);
    CHECK_EQ(sem_wait(&sem), 0);
    CHECK_EQ(sem_trywait(&sem), 0);
    CHECK_ERR(sem_trywait(&sem), EAGAIN);
    CHECK_EQ(sem_getvalue(&sem, &value), 0);
    CHECK_EQ(value, 0);
    puts("counts down to zero");

    int64_t deadline_ns = now_ns(CLOCK_REALTIME) + 15 * NS_PER_MS;
    struct timespec deadline = timespec_of_ns(deadline_ns);
    CHECK_ERR(sem_timedwait(&sem, &deadline), ETIMEDOUT);
    CHECK(now_ns(CLOCK_REALTIME) >= deadline_ns);
    deadline_ns = now_ns(CLOCK_MONOTONIC) + 15 * NS_PER_MS;
    deadline = timespec_of_ns(deadline_ns);
    CHECK_ERR(sem_clockwait(&sem, CLOCK_MONOTONIC, &deadline), ETIMEDOUT);
    CHECK(now_ns(CLOCK_MONOTONIC) >= deadline_ns);
    CHECK_EQ(sem_post(&sem), 0);
    CHECK_EQ(sem_timedwait(&sem, &deadline), 0);
    puts("timed out on both clocks, not early");

    CHECK_EQ(sem_init(&ping, 0, 0), 0);
    CHECK_EQ(sem_init(&pong, 0, 0), 0);
    pthread_t thread = spawn(answer, NULL);
    for (int i = 0; i < ROUNDS; i++) {
        CHECK_EQ(turns % 2, 0);
        turns++;
        CHECK_EQ(sem_post(&ping), 0);
        CHECK_EQ(sem_wait(&pong), 0);
    }
    join(thread);
    printf("%d turns\n", turns);
    return exit_success();
}
