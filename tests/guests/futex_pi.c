// futex_pi: priority-inheritance futexes work, or the kernel says it has none (ENOSYS, ENOTSUP) and the program does
// without, as glibc does. A half-working answer would leave a lock that nobody can take.
#include "futex.h"

static pthread_mutex_t mutex;
static long counter;

static void *count(void *arg) {
    for (int i = 0; i < 500; i++) {
        CHECK_EQ(pthread_mutex_lock(&mutex), 0);
        counter++;
        if (i % 50 == 0) sched_yield(); // so that others find it locked and go into the kernel
        CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
    }
    return arg;
}

static void check_raw(void) {
    uint32_t word = 0;
    if (futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0) == -1) {
        CHECK_EQ(errno, ENOSYS);
        return;
    }
    CHECK_EQ(word & FUTEX_TID_MASK, gettid());
    CHECK_ERR(futex(&word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0), EDEADLK);
    CHECK_EQ(futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0), 0);
    CHECK_EQ(word, 0);
    CHECK_ERR(futex(&word, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0), EPERM);
}

int main(void) {
    check_raw();
    pthread_mutexattr_t attr;
    CHECK_EQ(pthread_mutexattr_init(&attr), 0);
    CHECK_EQ(pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT), 0);
    int refused = pthread_mutex_init(&mutex, &attr);
    CHECK(refused == 0 || refused == ENOTSUP);
    if (refused != 0) CHECK_EQ(pthread_mutex_init(&mutex, NULL), 0);

    pthread_t threads[4];
    for (int i = 0; i < 4; i++) threads[i] = spawn(count, NULL);
    for (int i = 0; i < 4; i++) join(threads[i]);
    printf("counted %ld\n", counter);
    return exit_success();
}
