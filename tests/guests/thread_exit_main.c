// thread_exit_main: main leaves with pthread_exit while others go on; they can still join it, and the process ends
// with status 0, after atexit handlers and a flush of stdout, when the last thread returns.
#include "check.h"

static pthread_t main_thread, last_thread;

static void *go_on(void *arg) {
    void *result;
    CHECK_EQ(pthread_join(main_thread, &result), 0);
    printf("main ended with %ld\n", (long)result);
    return arg;
}

static void *go_on_longest(void *arg) {
    printf("the second thread ended with %ld\n", (long)join(*(pthread_t *)arg));
    return NULL;
}

static void at_exit(void) { exit_success(); }

int main(void) {
    static pthread_t second;
    main_thread = pthread_self();
    CHECK_EQ(atexit(at_exit), 0);
    second = spawn(go_on, (void *)11l);
    last_thread = spawn(go_on_longest, &second);
    pthread_exit((void *)7l);
}
