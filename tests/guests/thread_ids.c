// thread_ids: every thread has its own tid, main's is the pid, and calls that take a tid (tgkill, sched_getaffinity,
// sched_getscheduler, getpriority) accept it. A JVM died at start-up when one of them saw an untranslated tid.
#include "check.h"
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>

enum { THREADS = 6 };
static pthread_barrier_t together;

static void *live(void *tid) {
    *(pid_t *)tid = gettid();
    CHECK(getpid() != gettid());
    pthread_barrier_wait(&together);
    pthread_barrier_wait(&together);
    CHECK_EQ(*(pid_t *)tid, gettid());
    return NULL;
}

int main(void) {
    pid_t tids[THREADS + 1] = {gettid()};
    pthread_t threads[THREADS];
    cpu_set_t cpus, own_cpus;
    CHECK_EQ(getpid(), gettid());
    CHECK_EQ(pthread_barrier_init(&together, NULL, THREADS + 1), 0);
    for (int i = 0; i < THREADS; i++) threads[i] = spawn(live, &tids[i + 1]);
    pthread_barrier_wait(&together);

    CHECK_EQ(sched_getaffinity(0, sizeof own_cpus, &own_cpus), 0);
    CHECK(CPU_COUNT(&own_cpus) >= 1);
    for (int i = 0; i <= THREADS; i++) {
        for (int j = 0; j < i; j++) CHECK(tids[i] != tids[j]);
        CHECK_EQ(tgkill(getpid(), tids[i], 0), 0);
        CHECK_EQ(sched_getaffinity(tids[i], sizeof cpus, &cpus), 0);
        CHECK(CPU_EQUAL(&cpus, &own_cpus));
        CHECK_EQ(sched_getscheduler(tids[i]), SCHED_OTHER);
        errno = 0;
        int nice = getpriority(PRIO_PROCESS, tids[i]);
        CHECK(errno == 0 && nice >= -20 && nice <= 19);
    }
    CHECK_ERR(tgkill(getpid(), -1, 0), EINVAL);
    pthread_barrier_wait(&together);
    for (int i = 0; i < THREADS; i++) join(threads[i]);
    while (tgkill(getpid(), tids[1], 0) == 0) sched_yield(); // join may return just before it is gone
    CHECK_EQ(errno, ESRCH);
    printf("%d threads, all ids distinct and known\n", THREADS);
    return exit_success();
}
