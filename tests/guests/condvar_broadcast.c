// condvar_broadcast: one broadcast lets every waiter go, one signal exactly as many as were signalled, and each owns
// the mutex when it comes back. A bounded queue between threads shows that no signal is lost.
#include "check.h"

enum { WAITERS = 8, ITEMS = 2000, SLOTS = 4 };
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER, gate = PTHREAD_COND_INITIALIZER;
static pthread_cond_t not_empty = PTHREAD_COND_INITIALIZER, not_full = PTHREAD_COND_INITIALIZER;
static int waiting, tickets, passed, queue[SLOTS], queued, next_in, next_out;

static void *wait_for_ticket(void *arg) {
    CHECK_EQ(pthread_mutex_lock(&mutex), 0);
    waiting++;
    CHECK_EQ(pthread_cond_signal(&changed), 0);
    while (tickets == 0) CHECK_EQ(pthread_cond_wait(&gate, &mutex), 0);
    tickets--;
    passed++;
    CHECK_EQ(pthread_cond_signal(&changed), 0);
    CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
    return arg;
}

static void *consume(void *arg) {
    long sum = 0;
    for (int i = 0; i < ITEMS; i++) {
        CHECK_EQ(pthread_mutex_lock(&mutex), 0);
        while (queued == 0) CHECK_EQ(pthread_cond_wait(&not_empty, &mutex), 0);
        sum += queue[next_out++ % SLOTS];
        queued--;
        CHECK_EQ(pthread_cond_signal(&not_full), 0);
        CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
    }
    return (void *)sum;
}

int main(void) {
    pthread_t threads[WAITERS];
    for (int i = 0; i < WAITERS; i++) threads[i] = spawn(wait_for_ticket, NULL);
    CHECK_EQ(pthread_mutex_lock(&mutex), 0);
    while (waiting < WAITERS) CHECK_EQ(pthread_cond_wait(&changed, &mutex), 0);
    for (int i = 0; i < 3; i++) {
        tickets++;
        CHECK_EQ(pthread_cond_signal(&gate), 0);
    }
    while (passed < 3) CHECK_EQ(pthread_cond_wait(&changed, &mutex), 0);
    printf("signalled 3: %d passed\n", passed);
    tickets = WAITERS - 3;
    CHECK_EQ(pthread_cond_broadcast(&gate), 0);
    CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
    for (int i = 0; i < WAITERS; i++) join(threads[i]);
    printf("broadcast: %d passed\n", passed);

    pthread_t consumer = spawn(consume, NULL);
    for (int i = 1; i <= ITEMS; i++) {
        CHECK_EQ(pthread_mutex_lock(&mutex), 0);
        while (queued == SLOTS) CHECK_EQ(pthread_cond_wait(&not_full, &mutex), 0);
        queue[next_in++ % SLOTS] = i;
        queued++;
        CHECK_EQ(pthread_cond_signal(&not_empty), 0);
        CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
    }
    printf("queue of %d slots carried a sum of %ld\n", SLOTS, (long)join(consumer));
    return exit_success();
}
