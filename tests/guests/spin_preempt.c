// spin_preempt: a thread that spins on memory without any system call must not keep others from running: they are what
// it waits for. Spin locks, redis io-threads and lock-free queues do this; N:1 threads without preemption live-lock.
#include "check.h"

enum { ROUNDS = 20 };
static int flag;

// Waits for the flag to have the other side's value, and flips it. No call to anything.
static void *ping(void *arg) {
    int mine = (int)(intptr_t)arg;
    for (int i = 0; i < ROUNDS; i++) {
        while (__atomic_load_n(&flag, __ATOMIC_ACQUIRE) != 2 * i + mine) {}
        __atomic_store_n(&flag, 2 * i + mine + 1, __ATOMIC_RELEASE);
    }
    return NULL;
}

int main(void) {
    pthread_t other = spawn(ping, (void *)1);
    ping((void *)0);
    join(other);
    printf("flag went from 0 to %d\n", flag);
    return exit_success();
}
