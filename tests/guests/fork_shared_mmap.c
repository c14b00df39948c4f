// fork_shared_mmap: memory mapped shared before fork is one for parent and children, and so are the atomics, mutexes,
// condition variables and semaphores in it (shared futexes). nginx and PostgreSQL workers work on such pages.
#include "check.h"
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/wait.h>

enum { CHILDREN = 3, ROUNDS = 300 };
static struct shared {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    sem_t turn[2];
    long atomic, locked, generation;
} *s;

static void work(void) {
    for (int i = 0; i < ROUNDS; i++) {
        __atomic_fetch_add(&s->atomic, 1, __ATOMIC_SEQ_CST);
        CHECK_EQ(pthread_mutex_lock(&s->mutex), 0);
        long seen = *(volatile long *)&s->locked;
        s->locked = seen + 1;
        CHECK_EQ(pthread_mutex_unlock(&s->mutex), 0);
    }
}

int main(void) {
    int status;
    pthread_mutexattr_t mutex_attr;
    pthread_condattr_t cond_attr;
    s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(s != MAP_FAILED);
    CHECK_EQ(pthread_mutexattr_init(&mutex_attr), 0);
    CHECK_EQ(pthread_mutexattr_setpshared(&mutex_attr, PTHREAD_PROCESS_SHARED), 0);
    CHECK_EQ(pthread_mutex_init(&s->mutex, &mutex_attr), 0);
    CHECK_EQ(pthread_condattr_init(&cond_attr), 0);
    CHECK_EQ(pthread_condattr_setpshared(&cond_attr, PTHREAD_PROCESS_SHARED), 0);
    CHECK_EQ(pthread_cond_init(&s->changed, &cond_attr), 0);
    CHECK(sem_init(&s->turn[0], 1, 0) == 0 && sem_init(&s->turn[1], 1, 0) == 0);

    for (int i = 0; i < CHILDREN; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child > 0) continue;
        work();
        CHECK_EQ(pthread_mutex_lock(&s->mutex), 0);
        while (s->generation == 0) CHECK_EQ(pthread_cond_wait(&s->changed, &s->mutex), 0);
        CHECK_EQ(pthread_mutex_unlock(&s->mutex), 0);
        if (i == 0) { // and one plays ping-pong with the parent
            for (int r = 0; r < ROUNDS; r++) CHECK(sem_wait(&s->turn[0]) == 0 && sem_post(&s->turn[1]) == 0);
        }
        _exit(0);
    }
    work();
    CHECK_EQ(pthread_mutex_lock(&s->mutex), 0);
    s->generation = 1;
    CHECK_EQ(pthread_cond_broadcast(&s->changed), 0);
    CHECK_EQ(pthread_mutex_unlock(&s->mutex), 0);
    for (int r = 0; r < ROUNDS; r++) CHECK(sem_post(&s->turn[0]) == 0 && sem_wait(&s->turn[1]) == 0);
    for (int i = 0; i < CHILDREN; i++) {
        CHECK(wait(&status) > 0);
        CHECK_EQ(status, 0);
    }
    printf("atomic %ld, under the mutex %ld, %d turns\n", s->atomic, s->locked, ROUNDS);
    return exit_success();
}
