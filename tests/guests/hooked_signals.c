// hooked_signals: a signal that a system call raises finds its thread right after the call, with the registers of then,
// whatever instructions are around the call; what the handler changes in the frame is what goes on. The same for a call
// that waits while another thread runs.
#include "check.h"
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>

#define SITE(NAME, CALL)                                                                                    \
    __asm__(".text\n.type " NAME ", @function\n" NAME ":\n.cfi_startproc\n push %rbx\n mov %rdx, %rbx\n"    \
            " movq %rdx, %xmm9\n movabs $0x1234567890abcdef, %r14\n movq %r14, %xmm10\n" CALL               \
            " mov %rbx, %rdx\n movq %xmm9, %rcx\n add %rcx, %rdx\n movq %xmm10, %rcx\n pop %rbx\n ret\n"     \
            ".cfi_endproc\n.size " NAME ", .-" NAME "\n.globl " NAME "_after\n")
// kill(rdi, rsi), with a mark in rbx and xmm9; what comes back: rdx twice the mark, rcx the constant.
SITE("number_before", "mov $62, %eax\n syscall\nnumber_before_after: nop\n");
SITE("compared_after", "mov number(%rip), %rax\n syscall\ncompared_after_after: cmp $-4095, %rax\n");
extern const char number_before_after, compared_after_after;
long number = SYS_kill;

static long call(const char *name, long mark) {
    long result, rdx = mark, rcx;
    if (name[0] == 'n')
        __asm__ volatile("sub $128, %%rsp\n call number_before\n add $128, %%rsp\n" : "=a"(result), "+d"(rdx), "=c"(rcx) : "D"(getpid()), "S"(SIGUSR1) : "r11", "r14", "xmm9", "xmm10", "memory");
    else
        __asm__ volatile("sub $128, %%rsp\n call compared_after\n add $128, %%rsp\n" : "=a"(result), "+d"(rdx), "=c"(rcx) : "D"(getpid()), "S"(SIGUSR1) : "r11", "r14", "xmm9", "xmm10", "memory");
    CHECK_EQ(rcx, 0x1234567890abcdef);
    CHECK_EQ(rdx, 2 * mark);
    return result;
}

static const char *expected;
static long mark;
static int runs;
static long answer = 0;

static void on_signal(int signal, siginfo_t *info, void *context) {
    ucontext_t *u = context;
    CHECK_EQ(signal, SIGUSR1);
    CHECK_EQ(info->si_code, SI_USER);
    CHECK(u->uc_mcontext.gregs[REG_RIP] == (long)expected);
    CHECK(u->uc_mcontext.gregs[REG_RCX] == (long)expected);
    CHECK_EQ(u->uc_mcontext.gregs[REG_RBX], mark);
    CHECK_EQ(u->uc_mcontext.gregs[REG_RAX], 0);
    uint64_t xmm9;
    memcpy(&xmm9, &u->uc_mcontext.fpregs->_xmm[9], 8);
    CHECK_EQ(xmm9, mark);
    CHECK_EQ(*(uint32_t *)((char *)u->uc_mcontext.fpregs + 464), 0x46505853); // the extended state follows
    u->uc_mcontext.gregs[REG_RAX] = answer;
    __asm__ volatile("pcmpeqd %%xmm9, %%xmm9\n pcmpeqd %%xmm10, %%xmm10" ::: "xmm9", "xmm10");
    runs++;
}

static int pipe_fds[2];

static void *write_slowly(void *arg) {
    for (int i = 0; i < 20; i++) {
        double d = i;
        sleep_ms(1);
        __asm__ volatile("movsd %0, %%xmm9\n movsd %0, %%xmm10" ::"m"(d) : "xmm9", "xmm10");
        CHECK_EQ(write(pipe_fds[1], "x", 1), 1);
    }
    return arg;
}

int main(void) {
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    for (int i = 0; i < 20; i++) {
        mark = 1000 + i;
        answer = i;
        expected = &number_before_after;
        CHECK_EQ(call("number_before", mark), i);
        expected = &compared_after_after;
        CHECK_EQ(call("compared_after", mark), i);
    }
    CHECK_EQ(runs, 40);
    puts("40 signals right after the call that raised them");

    CHECK_EQ(pipe(pipe_fds), 0);
    pthread_t writer = spawn(write_slowly, NULL);
    for (int i = 0; i < 20; i++) {
        double x = 0.5 + i, y;
        char c;
        register long n __asm__("rax") = SYS_read;
        __asm__ volatile("movsd %[x], %%xmm9\n syscall\n movsd %%xmm9, %[y]\n"
                         : [y] "=m"(y), "+r"(n)
                         : [x] "m"(x), "D"(pipe_fds[0]), "S"(&c), "d"(1)
                         : "rcx", "r11", "xmm9", "memory");
        CHECK_EQ(n, 1);
        CHECK(y == x);
    }
    CHECK(join(writer) == NULL);
    puts("20 waits, each in its own registers");
    return exit_success();
}
