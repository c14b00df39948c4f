// thread_exit_process: exit() in any thread ends the whole process (exit_group) although others sit in a read, a
// futex wait, a sleep and a pure loop. An emulation that waits for its threads would hang here.
#include "check.h"

static pthread_barrier_t started;
static int pipe_fds[2];
static pthread_mutex_t never_free = PTHREAD_MUTEX_INITIALIZER;

static void *sit_in_read(void *arg) {
    char c;
    pthread_barrier_wait(&started);
    CHECK_EQ(read(pipe_fds[0], &c, 1), 1); // nobody writes
    return arg;
}

static void *sit_in_futex(void *arg) {
    pthread_barrier_wait(&started);
    pthread_mutex_lock(&never_free);
    return arg;
}

static void *sit_in_sleep(void *arg) {
    pthread_barrier_wait(&started);
    sleep(1000);
    return arg;
}

static void *loop_for_ever(void *arg) {
    pthread_barrier_wait(&started);
    for (volatile long n = 0;; n++) {}
    return arg;
}

static void *end_it_all(void *arg) {
    pthread_barrier_wait(&started);
    sleep_ms(10);
    exit(exit_success());
    return arg;
}

int main(void) {
    CHECK_EQ(pipe(pipe_fds), 0);
    CHECK_EQ(pthread_mutex_lock(&never_free), 0);
    CHECK_EQ(pthread_barrier_init(&started, NULL, 5), 0);
    spawn(sit_in_read, NULL);
    spawn(sit_in_futex, NULL);
    spawn(sit_in_sleep, NULL);
    spawn(loop_for_ever, NULL);
    join(spawn(end_it_all, NULL));
    CHECK(!"came back from a thread that called exit");
}
