// condvar_timedwait: a timed wait on a condition variable ends with ETIMEDOUT once its clock (real, monotonic, or the
// one named in clockwait) has reached the deadline, not before, and with 0 when signalled. Worker pools idle in this.
#include "check.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t monotonic_cond, realtime_cond = PTHREAD_COND_INITIALIZER;
static int ready;

static void check_timeout(pthread_cond_t *cond, clockid_t clock, const char *name) {
    int64_t deadline_ns = now_ns(clock) + 20 * NS_PER_MS;
    struct timespec deadline = timespec_of_ns(deadline_ns);
    int result = 0;
    CHECK_EQ(pthread_mutex_lock(&mutex), 0);
    while (result == 0) result = pthread_cond_timedwait(cond, &mutex, &deadline);
    CHECK_EQ(result, ETIMEDOUT);
    CHECK(now_ns(clock) >= deadline_ns);
    struct timespec past = {.tv_sec = 1};
    CHECK_EQ(pthread_cond_timedwait(cond, &mutex, &past), ETIMEDOUT);
    CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
    printf("%s: timed out, not early\n", name);
}

static void *signal_ready(void *cond) {
    CHECK_EQ(pthread_mutex_lock(&mutex), 0); // got only once the waiter waits
    ready = 1;
    CHECK_EQ(pthread_cond_signal(cond), 0);
    CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
    return NULL;
}

static void check_signalled(pthread_cond_t *cond, clockid_t clock) {
    struct timespec deadline = timespec_of_ns(now_ns(clock) + 30 * NS_PER_S);
    CHECK_EQ(pthread_mutex_lock(&mutex), 0);
    ready = 0;
    pthread_t thread = spawn(signal_ready, cond);
    while (!ready) CHECK_EQ(pthread_cond_timedwait(cond, &mutex, &deadline), 0);
    CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
    join(thread);
}

int main(void) {
    pthread_condattr_t attr;
    CHECK_EQ(pthread_condattr_init(&attr), 0);
    CHECK_EQ(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC), 0);
    CHECK_EQ(pthread_cond_init(&monotonic_cond, &attr), 0);

    check_timeout(&realtime_cond, CLOCK_REALTIME, "realtime");
    check_timeout(&monotonic_cond, CLOCK_MONOTONIC, "monotonic");

    int64_t deadline_ns = now_ns(CLOCK_MONOTONIC) + 20 * NS_PER_MS;
    struct timespec deadline = timespec_of_ns(deadline_ns);
    CHECK_EQ(pthread_mutex_lock(&mutex), 0);
    int result = 0;
    while (result == 0) result = pthread_cond_clockwait(&realtime_cond, &mutex, CLOCK_MONOTONIC, &deadline);
    CHECK_EQ(result, ETIMEDOUT);
    CHECK(now_ns(CLOCK_MONOTONIC) >= deadline_ns);
    CHECK_EQ(pthread_mutex_unlock(&mutex), 0);
    puts("clockwait: timed out, not early");

    check_signalled(&realtime_cond, CLOCK_REALTIME);
    check_signalled(&monotonic_cond, CLOCK_MONOTONIC);
    puts("signalled in time");
    return exit_success();
}
