// ucontext_switch: coroutines: a program runs on stacks of its own making and jumps between them, making system
// calls and taking signals on each. A shim may not guess a thread by its stack.
#include "check.h"
#include <signal.h>
#include <ucontext.h>

enum { COROUTINES = 3, ROUNDS = 100, STACK = 32768 };
static ucontext_t main_context, contexts[COROUTINES];
static char stacks[COROUTINES][STACK];
static int fds[2], steps[COROUTINES];
static volatile int handled, handled_on = -1;

static void on_signal(int signal) {
    char here;
    (void)signal;
    handled++;
    for (int i = 0; i < COROUTINES; i++)
        if (&here >= stacks[i] && &here < stacks[i] + STACK) handled_on = i;
}

static void run(int me) {
    for (int round = 0; round < ROUNDS; round++) {
        char c = (char)('a' + me), back;
        CHECK_EQ(write(fds[1], &c, 1), 1);
        CHECK_EQ(read(fds[0], &back, 1), 1);
        CHECK_EQ(back, c);
        steps[me]++;
        if (round % 10 == me) {
            CHECK_EQ(raise(SIGUSR1), 0);
            CHECK_EQ(handled_on, me); // the handler ran on this very stack
        }
        CHECK_EQ(swapcontext(&contexts[me], me + 1 < COROUTINES ? &contexts[me + 1] : &contexts[0]), 0);
    }
}

int main(void) {
    CHECK_EQ(pipe(fds), 0);
    CHECK(signal(SIGUSR1, on_signal) != SIG_ERR);
    for (int i = 0; i < COROUTINES; i++) {
        CHECK_EQ(getcontext(&contexts[i]), 0);
        contexts[i].uc_stack.ss_sp = stacks[i];
        contexts[i].uc_stack.ss_size = STACK;
        contexts[i].uc_link = i + 1 < COROUTINES ? &contexts[i + 1] : &main_context;
        makecontext(&contexts[i], (void (*)(void))run, 1, i);
    }
    CHECK_EQ(swapcontext(&main_context, &contexts[0]), 0);
    printf("%d + %d + %d steps, %d signals\n", steps[0], steps[1], steps[2], handled);
    return exit_success();
}
