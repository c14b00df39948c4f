// once: pthread_once runs its function once, and whoever comes while it runs waits until it is done. C++ function
// statics and every library's lazy setup are this.
#include "check.h"
#include <sched.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int calls, set_up;

static void set_up_slowly(void) {
    calls++;
    for (int i = 0; i < 20; i++) sched_yield(); // let the others come and wait
    sleep_ms(5);
    set_up = 42;
}

static void *use(void *arg) {
    CHECK_EQ(pthread_once(&once, set_up_slowly), 0);
    CHECK_EQ(set_up, 42);
    return arg;
}

int main(void) {
    pthread_t threads[16];
    for (int i = 0; i < 16; i++) threads[i] = spawn(use, NULL);
    for (int i = 0; i < 16; i++) join(threads[i]);
    printf("16 users, %d set-up\n", calls);
    return exit_success();
}
