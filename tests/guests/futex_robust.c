// futex_robust: a thread that ends while it holds a robust mutex leaves it to the next one with EOWNERDEAD: at exit
// the kernel walks the robust list, sets FUTEX_OWNER_DIED and wakes a waiter. An emulated exit must do the same walk.
#include "check.h"
#include <linux/futex.h>
#include <sched.h>

static pthread_mutex_t mutex;

static void *lock_and_exit(void *arg) {
    CHECK_EQ(pthread_mutex_lock(&mutex), 0);
    return arg;
}

// Ends only when somebody waits for the mutex, so the exit itself has to wake him.
static void *lock_and_exit_when_wanted(void *taken) {
    CHECK_EQ(pthread_mutex_lock(&mutex), 0);
    __atomic_store_n((int *)taken, 1, __ATOMIC_SEQ_CST);
    while (!(__atomic_load_n(&mutex.__data.__lock, __ATOMIC_SEQ_CST) & FUTEX_WAITERS)) sched_yield();
    return NULL;
}

int main(void) {
    pthread_mutexattr_t attr;
    CHECK_EQ(pthread_mutexattr_init(&attr), 0);
    CHECK_EQ(pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST), 0);
    CHECK_EQ(pthread_mutex_init(&mutex, &attr), 0);

    join(spawn(lock_and_exit, NULL));
    CHECK_EQ(pthread_mutex_trylock(&mutex), EOWNERDEAD);
    CHECK_EQ(pthread_mutex_consistent(&mutex), 0);
    CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
    puts("owner died before: EOWNERDEAD, made consistent");

    int taken = 0;
    pthread_t owner = spawn(lock_and_exit_when_wanted, &taken);
    while (!__atomic_load_n(&taken, __ATOMIC_SEQ_CST)) sched_yield();
    CHECK_EQ(pthread_mutex_lock(&mutex), EOWNERDEAD);
    join(owner);
    CHECK_EQ(pthread_mutex_consistent(&mutex), 0);
    CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
    puts("owner died while we waited: woken with EOWNERDEAD");

    CHECK_EQ(pthread_mutex_lock(&mutex), 0);
    CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
    join(spawn(lock_and_exit, NULL));
    CHECK_EQ(pthread_mutex_lock(&mutex), EOWNERDEAD);
    CHECK_EQ(pthread_mutex_unlock(&mutex), 0); // not made consistent
    CHECK_EQ(pthread_mutex_lock(&mutex), ENOTRECOVERABLE);
    puts("given up: ENOTRECOVERABLE");
    return exit_success();
}
