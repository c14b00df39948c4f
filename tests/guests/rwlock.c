// rwlock: readers share, a writer excludes everybody, timed attempts time out. Readers that could not share would hang
// at the barrier here.
#include "check.h"

enum { READERS = 4, ROUNDS = 300 };
static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static pthread_barrier_t inside;
static long first_half, second_half;

static void *read_together(void *arg) {
    CHECK_EQ(pthread_rwlock_rdlock(&lock), 0);
    pthread_barrier_wait(&inside); // all of them hold it now
    CHECK_EQ(pthread_rwlock_trywrlock(&lock), EBUSY);
    pthread_barrier_wait(&inside);
    CHECK_EQ(pthread_rwlock_unlock(&lock), 0);
    return arg;
}

static void *find_it_written(void *arg) {
    CHECK_EQ(pthread_rwlock_tryrdlock(&lock), EBUSY);
    CHECK_EQ(pthread_rwlock_trywrlock(&lock), EBUSY);
    int64_t deadline_ns = now_ns(CLOCK_REALTIME) + 10 * NS_PER_MS;
    struct timespec deadline = timespec_of_ns(deadline_ns);
    CHECK_EQ(pthread_rwlock_timedrdlock(&lock, &deadline), ETIMEDOUT);
    CHECK_EQ(pthread_rwlock_timedwrlock(&lock, &deadline), ETIMEDOUT);
    CHECK(now_ns(CLOCK_REALTIME) >= deadline_ns);
    return arg;
}

static void *read_or_write(void *is_writer) {
    for (int i = 0; i < ROUNDS; i++) {
        if (is_writer != NULL) {
            CHECK_EQ(pthread_rwlock_wrlock(&lock), 0);
            first_half++;
            second_half++;
        } else {
            CHECK_EQ(pthread_rwlock_rdlock(&lock), 0);
            CHECK_EQ(first_half, second_half);
        }
        CHECK_EQ(pthread_rwlock_unlock(&lock), 0);
    }
    return NULL;
}

int main(void) {
    pthread_t threads[2 * READERS];
    CHECK_EQ(pthread_barrier_init(&inside, NULL, READERS), 0);
    for (int i = 0; i < READERS; i++) threads[i] = spawn(read_together, NULL);
    for (int i = 0; i < READERS; i++) join(threads[i]);
    printf("%d readers inside together\n", READERS);

    CHECK_EQ(pthread_rwlock_wrlock(&lock), 0);
    CHECK_EQ(pthread_rwlock_rdlock(&lock), EDEADLK);
    join(spawn(find_it_written, NULL));
    CHECK_EQ(pthread_rwlock_unlock(&lock), 0);
    puts("a writer excludes all");

    for (int i = 0; i < 2 * READERS; i++) threads[i] = spawn(read_or_write, i % 2 ? &lock : NULL);
    for (int i = 0; i < 2 * READERS; i++) join(threads[i]);
    printf("%ld writes, never seen half done\n", first_half);
    return exit_success();
}
