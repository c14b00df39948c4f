// sched_yield_fair: threads that wait for their turn by sched_yield alone all get it: a yield must let every other
// runnable thread run before it comes back to the same one for ever.
#include "check.h"
#include <sched.h>

enum { THREADS = 5, ROUNDS = 300 };
static int turn;

static void *take_turns(void *arg) {
    int me = (int)(intptr_t)arg;
    for (int i = 0; i < ROUNDS; i++) {
        while (__atomic_load_n(&turn, __ATOMIC_SEQ_CST) % THREADS != me) CHECK_EQ(sched_yield(), 0);
        __atomic_fetch_add(&turn, 1, __ATOMIC_SEQ_CST);
    }
    return NULL;
}

int main(void) {
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) threads[i] = spawn(take_turns, (void *)(intptr_t)i);
    for (int i = 0; i < THREADS; i++) join(threads[i]);
    printf("%d threads took %d turns in order\n", THREADS, turn);
    return exit_success();
}
