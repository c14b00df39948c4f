// futex_clear_tid: when a thread has really ended the kernel zeroes its CLONE_CHILD_CLEARTID word and wakes one waiter
// on it, as a *shared* futex wake. pthread_join and the reuse of thread stacks rest on it.
#include "futex.h"
#include <sys/mman.h>

static volatile uint32_t tid_word;
static volatile int child_ran;

// Runs without thread-local storage of its own: nothing here may touch errno.
static int raw_child(void *arg) {
    child_ran += (int)(intptr_t)arg;
    return 0;
}

static void *return_argument(void *arg) { return arg; }

int main(void) {
    const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
                      CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
    const size_t stack_size = 64 * 1024;
    char *stack = mmap(NULL, stack_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(stack != MAP_FAILED);

    for (int round = 0; round < 20; round++) {
        int tid = clone(raw_child, stack + stack_size, flags, (void *)1, &tid_word, NULL, &tid_word);
        CHECK(tid > 0);
        uint32_t seen;
        while ((seen = tid_word) != 0) {
            CHECK_EQ(seen, tid);
            long r = futex((uint32_t *)&tid_word, FUTEX_WAIT, seen, NULL, NULL, 0);
            CHECK(r == 0 || errno == EAGAIN);
        }
        // the stack is free now: use all of it
        memset(stack, 0xa5, stack_size);
    }
    printf("%d raw threads ended and said so\n", child_ran);

    long sum = 0;
    for (long i = 1; i <= 100; i++) sum += (long)join(spawn(return_argument, (void *)i));
    printf("joined threads returned %ld\n", sum);
    return exit_success();
}
