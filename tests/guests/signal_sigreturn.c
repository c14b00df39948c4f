// signal_sigreturn: what a handler writes into its ucontext takes effect when it returns: the signal mask, the
// instruction pointer (a jump to other code), the stack pointer. Runtimes preempt their threads this way (Go).
#include "check.h"
#include <signal.h>
#include <sys/ucontext.h>

static volatile int landed;

static void change_mask(int signal, siginfo_t *info, void *context) {
    ucontext_t *c = context;
    (void)info;
    CHECK_EQ(sigismember(&c->uc_sigmask, SIGUSR2), 0); // the mask to return to
    sigaddset(&c->uc_sigmask, SIGUSR2);
    sigaddset(&c->uc_sigmask, signal);
}

static void landing(void) { landed++; }

// Makes the interrupted code look as if it had called landing().
static void inject_call(int signal, siginfo_t *info, void *context) {
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    (void)signal, (void)info;
    r[REG_RSP] = ((r[REG_RSP] - 128) & -16) - 8; // below the red zone, aligned as after a call
    *(greg_t *)r[REG_RSP] = r[REG_RIP];          // where landing() returns to
    r[REG_RIP] = (greg_t)landing;
}

int main(void) {
    struct sigaction action = {.sa_sigaction = change_mask, .sa_flags = SA_SIGINFO};
    sigset_t now, usr;
    sigemptyset(&usr);
    sigaddset(&usr, SIGUSR1);
    sigaddset(&usr, SIGUSR2);
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    CHECK_EQ(kill(getpid(), SIGUSR1), 0);
    CHECK_EQ(sigprocmask(SIG_BLOCK, NULL, &now), 0);
    CHECK(sigismember(&now, SIGUSR1) && sigismember(&now, SIGUSR2) && !sigismember(&now, SIGHUP));
    puts("the mask written by the handler is in force");
    CHECK_EQ(sigprocmask(SIG_UNBLOCK, &usr, NULL), 0);

    action.sa_sigaction = inject_call;
    CHECK_EQ(sigaction(SIGTRAP, &action, NULL), 0);
    for (int i = 0; i < 10; i++) {
        // rsp is restored by hand: the injected call returns with it moved
        __asm__ volatile("mov %%rsp, %%r12\n int3\n mov %%r12, %%rsp\n"
                         ::: "r12", "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
    }
    printf("landed %d times in a call the handler injected\n", landed);
    return exit_success();
}
