// futex_requeue: FUTEX_CMP_REQUEUE wakes some waiters and moves the rest to another word without waking them, in the
// order they came. Condition variables of musl, older glibc, Go and the JVM broadcast this way.
#include "futex.h"

enum { WAITERS = 6 };
static uint32_t staging, cond, mutex;
static int woken[WAITERS], woken_count;

static void *wait_once(void *index) {
    CHECK_EQ(futex_wait(&staging, 0, NULL), 0);
    int place = __atomic_fetch_add(&woken_count, 1, __ATOMIC_SEQ_CST);
    woken[place] = (int)(intptr_t)index;
    return NULL;
}

int main(void) {
    pthread_t waiters[WAITERS];
    for (intptr_t i = 0; i < WAITERS; i++) {
        waiters[i] = spawn(wait_once, (void *)i);
        futex_move_surely(&staging, &cond, 1); // so they queue on `cond` in order
    }

    cond = 1;
    CHECK_ERR(futex(&cond, FUTEX_CMP_REQUEUE_PRIVATE, 1, (void *)(long)INT_MAX, &mutex, 0), EAGAIN);
    CHECK_EQ(futex(&cond, FUTEX_CMP_REQUEUE_PRIVATE, 1, (void *)3l, &mutex, 1), 4);
    CHECK_EQ(futex_wake(&staging, INT_MAX), 0);
    puts("one woken, three moved, two left");

    for (int released = 1; released <= 4; released++) {
        while (__atomic_load_n(&woken_count, __ATOMIC_SEQ_CST) < released) sched_yield();
        if (released <= 3) CHECK_EQ(futex_wake(&mutex, 1), 1);
    }
    CHECK_EQ(futex_wake(&mutex, INT_MAX), 0);
    CHECK_EQ(futex_wake(&cond, INT_MAX), 2);
    for (int i = 0; i < WAITERS; i++) join(waiters[i]);

    printf("first come, first woken:");
    for (int i = 0; i < 4; i++) printf(" %d", woken[i]);
    CHECK_EQ(woken[4] + woken[5], 4 + 5);
    puts("");
    return exit_success();
}
