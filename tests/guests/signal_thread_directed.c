// signal_thread_directed: pthread_kill runs the handler in that very thread, even if it waits in a futex; a signal to
// the process goes to a thread that does not block it; masks are each thread's own, inherited from its creator.
#include "check.h"
#include <semaphore.h>
#include <signal.h>

enum { THREADS = 4 };
static __thread int my_index = -1;
static int handled_by[16];
static volatile int runs;
static sem_t handled, stop;
static pthread_barrier_t ready;

static void on_signal(int signal) {
    (void)signal;
    handled_by[runs++] = my_index;
    sem_post(&handled);
}

static void *wait_for_stop(void *arg) {
    my_index = (int)(intptr_t)arg;
    sigset_t set;
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, NULL, &set), 0);
    CHECK(sigismember(&set, SIGUSR1) && sigismember(&set, SIGUSR2)); // inherited
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    if (my_index == 2) sigaddset(&set, SIGUSR2);
    CHECK_EQ(pthread_sigmask(SIG_UNBLOCK, &set, NULL), 0);
    pthread_barrier_wait(&ready);
    while (sem_wait(&stop) == -1) CHECK_EQ(errno, EINTR);
    return NULL;
}

int main(void) {
    pthread_t threads[THREADS];
    sigset_t set;
    struct sigaction action = {.sa_handler = on_signal};
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    CHECK_EQ(sigaction(SIGUSR2, &action, NULL), 0);
    CHECK(sem_init(&handled, 0, 0) == 0 && sem_init(&stop, 0, 0) == 0);
    CHECK_EQ(pthread_barrier_init(&ready, NULL, THREADS + 1), 0);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, NULL), 0);
    for (intptr_t i = 0; i < THREADS; i++) threads[i] = spawn(wait_for_stop, (void *)i);
    pthread_barrier_wait(&ready);

    for (int i = THREADS - 1; i >= 0; i--) {
        CHECK_EQ(pthread_kill(threads[i], SIGUSR1), 0);
        CHECK_EQ(sem_wait(&handled), 0);
        printf("directed at %d: handled by %d\n", i, handled_by[runs - 1]);
    }
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(kill(getpid(), SIGUSR2), 0);
        CHECK_EQ(sem_wait(&handled), 0);
        printf("to the process: handled by %d, the only one that takes it\n", handled_by[runs - 1]);
    }
    CHECK_EQ(pthread_kill(pthread_self(), SIGUSR1), 0); // blocked here: pending on this thread
    CHECK_EQ(sigpending(&set), 0);
    CHECK(sigismember(&set, SIGUSR1) && !sigismember(&set, SIGUSR2));
    CHECK_EQ(pthread_kill(threads[0], 0), 0);

    for (int i = 0; i < THREADS; i++) CHECK_EQ(sem_post(&stop), 0);
    for (int i = 0; i < THREADS; i++) join(threads[i]);
    CHECK_EQ(runs, THREADS + 3);
    puts("one left pending on main");
    return exit_success();
}
