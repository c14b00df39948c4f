// clone_threads: 64 threads live at once, each with its own stack and result, twice in a row: the second time on the
// stacks that glibc kept from the first. The plainest use of clone(CLONE_THREAD).
#include "check.h"

enum { THREADS = 64 };
static pthread_barrier_t all_alive;

static void *square(void *arg) {
    long n = (long)arg;
    volatile char scratch[4096]; // its own stack, or the sums go wrong
    memset((void *)scratch, (int)n, sizeof scratch);
    pthread_barrier_wait(&all_alive);
    for (size_t i = 0; i < sizeof scratch; i++) CHECK_EQ((unsigned char)scratch[i], n & 0xff);
    return (void *)(n * n);
}

int main(void) {
    pthread_t threads[THREADS];
    CHECK_EQ(pthread_barrier_init(&all_alive, NULL, THREADS), 0);
    for (int round = 0; round < 2; round++) {
        long sum = 0;
        for (long i = 0; i < THREADS; i++) threads[i] = spawn(square, (void *)(i + round));
        for (long i = 0; i < THREADS; i++) sum += (long)join(threads[i]);
        printf("round %d: %d threads, sum of squares %ld\n", round, THREADS, sum);
    }
    return exit_success();
}
