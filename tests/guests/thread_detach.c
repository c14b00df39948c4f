// thread_detach: detached threads free themselves: their stacks are given back after the kernel has cleared the tid,
// so a server that starts one per request can go on for ever.
#include "check.h"
#include <semaphore.h>

enum { ROUNDS = 10, AT_ONCE = 32 };
static sem_t done;
static long sum;

static void *add(void *arg) {
    __atomic_fetch_add(&sum, (long)arg, __ATOMIC_SEQ_CST);
    CHECK_EQ(sem_post(&done), 0);
    return NULL;
}

int main(void) {
    pthread_attr_t attr;
    CHECK_EQ(sem_init(&done, 0, 0), 0);
    CHECK_EQ(pthread_attr_init(&attr), 0);
    CHECK_EQ(pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED), 0);
    for (int round = 0; round < ROUNDS; round++) {
        for (long i = 0; i < AT_ONCE; i++) {
            pthread_t thread;
            if (i % 2 == 0) {
                CHECK_EQ(pthread_create(&thread, &attr, add, (void *)i), 0);
            } else {
                thread = spawn(add, (void *)i);
                CHECK_EQ(pthread_detach(thread), 0);
            }
        }
        for (int i = 0; i < AT_ONCE; i++) CHECK_EQ(sem_wait(&done), 0);
    }
    printf("%d detached threads, sum %ld\n", ROUNDS * AT_ONCE, sum);
    return exit_success();
}
