// timer_thread: SIGEV_THREAD timers call a function in a new thread with their value, once or periodically. glibc makes
// them from a helper thread, SIGEV_THREAD_ID and a signal of its own.
#include "check.h"
#include <semaphore.h>
#include <signal.h>

static sem_t called;
static int calls, value_seen;
static pthread_t main_thread;

static void on_timer(union sigval value) {
    CHECK(!pthread_equal(pthread_self(), main_thread));
    __atomic_store_n(&value_seen, value.sival_int, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&calls, 1, __ATOMIC_SEQ_CST);
    CHECK_EQ(sem_post(&called), 0);
}

int main(void) {
    struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = on_timer};
    struct itimerspec once = {.it_value = timespec_of_ns(10 * NS_PER_MS)};
    struct itimerspec periodic = {timespec_of_ns(5 * NS_PER_MS), timespec_of_ns(5 * NS_PER_MS)};
    timer_t timer;
    main_thread = pthread_self();
    CHECK_EQ(sem_init(&called, 0, 0), 0);

    event.sigev_value.sival_int = 17;
    CHECK_EQ(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
    int64_t start = now_ns(CLOCK_MONOTONIC);
    CHECK_EQ(timer_settime(timer, 0, &once, NULL), 0);
    CHECK_EQ(sem_wait(&called), 0);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 10 * NS_PER_MS);
    CHECK_EQ(timer_delete(timer), 0);
    printf("once: value %d, %d call\n", value_seen, calls);

    event.sigev_value.sival_int = 18;
    CHECK_EQ(timer_create(CLOCK_REALTIME, &event, &timer), 0);
    CHECK_EQ(timer_settime(timer, 0, &periodic, NULL), 0);
    for (int i = 0; i < 5; i++) CHECK_EQ(sem_wait(&called), 0);
    CHECK_EQ(timer_delete(timer), 0);
    CHECK(__atomic_load_n(&calls, __ATOMIC_SEQ_CST) >= 6);
    printf("periodic: value %d, five calls\n", value_seen);
    return exit_success();
}
