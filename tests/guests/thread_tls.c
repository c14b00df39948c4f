// thread_tls: each thread has its own __thread variables, errno and pthread keys (the fs base of its context), and key
// destructors run when it ends. One wrong fs base after a switch and all of this is another thread's.
#include "check.h"
#include <sched.h>

enum { THREADS = 8, ROUNDS = 200 };
static __thread long counter = 1000;
static __thread char buffer[300];
static pthread_key_t key, again_key;
static int destroyed, destroyed_again;

static void on_destroy(void *value) {
    CHECK_EQ(*(long *)value, ROUNDS);
    free(value);
    __atomic_fetch_add(&destroyed, 1, __ATOMIC_SEQ_CST);
}

// Sets itself again: the library asks again, PTHREAD_DESTRUCTOR_ITERATIONS (4) times in all.
static void on_destroy_again(void *value) {
    __atomic_fetch_add(&destroyed_again, 1, __ATOMIC_SEQ_CST);
    CHECK_EQ(pthread_setspecific(again_key, value), 0);
}

static void *work(void *arg) {
    long n = (long)arg;
    CHECK_EQ(counter, 1000);
    for (size_t i = 0; i < sizeof buffer; i++) CHECK_EQ(buffer[i], 0);
    long *mine = calloc(1, sizeof *mine);
    CHECK_EQ(pthread_setspecific(key, mine), 0);
    CHECK_EQ(pthread_setspecific(again_key, mine), 0);
    for (int i = 0; i < ROUNDS; i++) {
        errno = (int)n + 1;
        memset(buffer, (int)n, sizeof buffer);
        counter += n;
        sched_yield(); // others run in between
        CHECK_EQ(errno, n + 1);
        CHECK_EQ(buffer[299], n);
        CHECK_EQ(counter, 1000 + n * (i + 1));
        CHECK_EQ(pthread_getspecific(key), mine);
        ++*mine;
    }
    return (void *)counter;
}

int main(void) {
    pthread_t threads[THREADS];
    CHECK_EQ(pthread_key_create(&key, on_destroy), 0);
    CHECK_EQ(pthread_key_create(&again_key, on_destroy_again), 0);
    for (long i = 0; i < THREADS; i++) threads[i] = spawn(work, (void *)i);
    for (long i = 0; i < THREADS; i++) CHECK_EQ(join(threads[i]), 1000 + i * ROUNDS);
    CHECK_EQ(counter, 1000);
    CHECK(pthread_getspecific(key) == NULL);
    printf("%d threads, %d destructors, %d repeated destructors\n", THREADS, destroyed, destroyed_again);
    return exit_success();
}
