// signal_stack_overflow: running off the end of a thread's stack gives SIGSEGV on the alternate stack, from which the
// program may jump out and go on. There is no room for a frame on the broken stack itself, for anybody.
#include "check.h"
#include <setjmp.h>
#include <signal.h>

static __thread sigjmp_buf out;
static volatile int faults, deep_enough; // the second is never set

static void on_fault(int signal) {
    (void)signal;
    faults++;
    siglongjmp(out, 1);
}

static __attribute__((noinline)) int recurse(volatile char *above) {
    volatile char frame[1024];
    frame[0] = above[0] + 1;
    return deep_enough ? 0 : recurse(frame) + frame[0];
}

static void *overflow(void *arg) {
    stack_t stack = {.ss_sp = malloc(65536), .ss_size = 65536};
    CHECK_EQ(sigaltstack(&stack, NULL), 0);
    for (volatile int i = 0; i < 3; i++) {
        if (sigsetjmp(out, 1) == 0) {
            char start = 0;
            recurse(&start);
            CHECK(!"returned from endless recursion");
        }
    }
    stack.ss_flags = SS_DISABLE;
    CHECK_EQ(sigaltstack(&stack, NULL), 0);
    free(stack.ss_sp);
    return arg;
}

int main(void) {
    struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_ONSTACK};
    CHECK_EQ(sigaction(SIGSEGV, &action, NULL), 0);
    join(spawn(overflow, NULL));
    join(spawn(overflow, NULL));
    printf("%d overflows survived\n", faults);
    return exit_success();
}
