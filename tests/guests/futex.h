// The raw futex call: glibc uses only part of it, servers with their own locks use the rest.
#ifndef FUTEX_H
#define FUTEX_H
#include "check.h"
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>

static inline long futex(uint32_t *word, int op, uint32_t value, const struct timespec *timeout, uint32_t *word2,
                         uint32_t value3) {
    return syscall(SYS_futex, word, op, value, timeout, word2, value3);
}

static inline long futex_wait(uint32_t *word, uint32_t value, const struct timespec *timeout) {
    return futex(word, FUTEX_WAIT_PRIVATE, value, timeout, NULL, 0);
}

static inline long futex_wake(uint32_t *word, uint32_t count) {
    return futex(word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

// Wakes one waiter, which may not have begun to wait yet. The count returned is what makes this exact.
static inline void futex_wake_one_surely(uint32_t *word) {
    while (futex_wake(word, 1) == 0) sched_yield();
}

// Moves `count` waiters from one word to another, waiting for them to begin to wait: then they are known to wait.
static inline void futex_move_surely(uint32_t *from, uint32_t *to, int count) {
    while (count > 0) {
        // value2, the number to move, travels in the place of the timeout
        long moved = futex(from, FUTEX_CMP_REQUEUE_PRIVATE, 0, (void *)(long)count, to, *from);
        CHECK(moved >= 0);
        count -= moved;
        if (moved == 0) sched_yield();
    }
}

#endif
