// barrier: nobody passes a pthread barrier before all have come, exactly one is told so, and it can be used again at
// once. Every round wakes all waiters of one futex.
#include "check.h"

enum { THREADS = 8, ROUNDS = 50 };
static pthread_barrier_t barrier;
static int arrived[ROUNDS], serial[ROUNDS];

static void *walk(void *arg) {
    for (int round = 0; round < ROUNDS; round++) {
        __atomic_fetch_add(&arrived[round], 1, __ATOMIC_SEQ_CST);
        int r = pthread_barrier_wait(&barrier);
        CHECK(r == 0 || r == PTHREAD_BARRIER_SERIAL_THREAD);
        if (r == PTHREAD_BARRIER_SERIAL_THREAD) __atomic_fetch_add(&serial[round], 1, __ATOMIC_SEQ_CST);
        CHECK_EQ(__atomic_load_n(&arrived[round], __ATOMIC_SEQ_CST), THREADS);
    }
    return arg;
}

int main(void) {
    CHECK_EQ(pthread_barrier_init(&barrier, NULL, 0), EINVAL);
    CHECK_EQ(pthread_barrier_init(&barrier, NULL, THREADS), 0);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) threads[i] = spawn(walk, NULL);
    for (int i = 0; i < THREADS; i++) join(threads[i]);
    for (int round = 0; round < ROUNDS; round++) CHECK_EQ(serial[round], 1);
    CHECK_EQ(pthread_barrier_destroy(&barrier), 0);
    printf("%d threads, %d rounds\n", THREADS, ROUNDS);
    return exit_success();
}
