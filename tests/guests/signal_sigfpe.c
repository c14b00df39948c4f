// signal_sigfpe: an integer division by zero is a SIGFPE with FPE_INTDIV and the instruction's address; the handler can
// jump out, or mend the registers and go on. Java and Go turn it into exceptions.
#include "check.h"
#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

static sigjmp_buf out;
static volatile int faults, last_code;
static volatile bool at_instruction;

static void jump_out(int signal, siginfo_t *info, void *context) {
    ucontext_t *c = context;
    (void)signal;
    faults++;
    last_code = info->si_code;
    at_instruction = (uintptr_t)info->si_addr == (uintptr_t)c->uc_mcontext.gregs[REG_RIP];
    siglongjmp(out, 1);
}

// The divisor is in ecx: make it 5 and let the instruction run again.
static void mend(int signal, siginfo_t *info, void *context) {
    ucontext_t *c = context;
    (void)signal, (void)info;
    faults++;
    CHECK_EQ(c->uc_mcontext.gregs[REG_RCX], 0);
    c->uc_mcontext.gregs[REG_RCX] = 5;
}

static int divide(int a, int b) {
    int quotient, remainder;
    __asm__ volatile("cltd\n idivl %%ecx" : "=a"(quotient), "=&d"(remainder) : "0"(a), "c"(b));
    return quotient;
}

int main(void) {
    struct sigaction action = {.sa_sigaction = jump_out, .sa_flags = SA_SIGINFO};
    CHECK_EQ(sigaction(SIGFPE, &action, NULL), 0);
    for (volatile int i = 0; i < 5; i++) {
        if (sigsetjmp(out, 1) == 0) {
            divide(i, 0);
            CHECK(!"divided by zero");
        }
        CHECK(last_code == FPE_INTDIV && at_instruction);
    }
    printf("jumped out of %d divisions\n", faults);

    action.sa_sigaction = mend;
    CHECK_EQ(sigaction(SIGFPE, &action, NULL), 0);
    printf("40 / 0 = %d after mending\n", divide(40, 0));
    printf("42 / 7 = %d\n", divide(42, 7));
    return exit_success();
}
