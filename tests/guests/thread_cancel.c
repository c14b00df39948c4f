// thread_cancel: pthread_cancel ends a thread that blocks in a system call or a condition wait (a directed signal 32
// whose handler unwinds), runs its cleanup handlers, and waits while cancellation is disabled.
#include "check.h"

static int pipe_fds[2], cleanups;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t together;

static void clean_up(void *what) {
    cleanups++;
    if (what != NULL) CHECK_EQ(pthread_mutex_unlock(what), 0);
}

static void *block_in_read(void *arg) {
    char c;
    pthread_cleanup_push(clean_up, NULL);
    pthread_barrier_wait(&together);
    CHECK_EQ(read(pipe_fds[0], &c, 1), 1);
    pthread_cleanup_pop(0);
    return arg;
}

static void *block_in_cond(void *arg) {
    CHECK_EQ(pthread_mutex_lock(&mutex), 0);
    pthread_cleanup_push(clean_up, &mutex); // the mutex is held again when this runs
    pthread_barrier_wait(&together);
    for (;;) pthread_cond_wait(&cond, &mutex);
    pthread_cleanup_pop(0);
    return arg;
}

static void *refuse_for_a_while(void *arg) {
    int old;
    CHECK_EQ(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old), 0);
    pthread_barrier_wait(&together);
    pthread_barrier_wait(&together); // cancelled meanwhile
    sleep_ms(1);                     // would be a cancellation point
    *(int *)arg = 1;
    CHECK_EQ(pthread_setcancelstate(old, NULL), 0);
    pthread_testcancel();
    CHECK(!"survived its cancellation");
    return NULL;
}

int main(void) {
    int went_on = 0;
    CHECK_EQ(pipe(pipe_fds), 0);
    CHECK_EQ(pthread_barrier_init(&together, NULL, 2), 0);

    void *(*bodies[])(void *) = {block_in_read, block_in_cond};
    for (int i = 0; i < 2; i++) {
        pthread_t thread = spawn(bodies[i], NULL);
        pthread_barrier_wait(&together);
        sleep_ms(5); // likely blocked by now; either way it must end
        CHECK_EQ(pthread_cancel(thread), 0);
        CHECK_EQ(join(thread), PTHREAD_CANCELED);
    }
    CHECK_EQ(pthread_mutex_trylock(&mutex), 0);
    printf("cancelled in read and in a condition wait, %d cleanups\n", cleanups);

    pthread_t thread = spawn(refuse_for_a_while, &went_on);
    pthread_barrier_wait(&together);
    CHECK_EQ(pthread_cancel(thread), 0);
    pthread_barrier_wait(&together);
    CHECK_EQ(join(thread), PTHREAD_CANCELED);
    CHECK_EQ(went_on, 1);
    puts("cancelled only after it allowed it");
    return exit_success();
}
