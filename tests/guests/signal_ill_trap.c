// signal_ill_trap: ud2 and int3 are the program's own SIGILL and SIGTRAP; the handler sees and changes all registers in
// the ucontext, and the program goes on with them. Runtimes use both; the shim must hand them through.
#include "check.h"
#include <signal.h>
#include <ucontext.h>

static volatile int ills, traps;

static void on_ill(int signal, siginfo_t *info, void *context) {
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    (void)signal;
    CHECK_EQ(info->si_addr, r[REG_RIP]);
    CHECK_EQ(memcmp((void *)r[REG_RIP], "\x0f\x0b", 2), 0);
    CHECK(r[REG_RAX] == 0x1111 && r[REG_RSI] == 0x2222 && r[REG_R10] == 0x3333);
    r[REG_RAX] += 1, r[REG_RSI] += 2, r[REG_R10] += 3;
    r[REG_RIP] += 2; // over the ud2
    ills++;
}

static void on_trap(int signal, siginfo_t *info, void *context) {
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    (void)signal, (void)info;
    CHECK_EQ(*(unsigned char *)(r[REG_RIP] - 1), 0xcc); // already past the int3
    r[REG_RAX] = 99;
    traps++;
}

int main(void) {
    struct sigaction action = {.sa_sigaction = on_ill, .sa_flags = SA_SIGINFO};
    CHECK_EQ(sigaction(SIGILL, &action, NULL), 0);
    action.sa_sigaction = on_trap;
    CHECK_EQ(sigaction(SIGTRAP, &action, NULL), 0);

    for (int i = 0; i < 10; i++) {
        uint64_t a = 0x1111, si = 0x2222, carry = 0;
        register uint64_t r10 __asm__("r10") = 0x3333;
        // the flags come through too: the carry set before is there after
        __asm__ volatile("stc\n ud2\n setc %b3" : "+a"(a), "+S"(si), "+r"(r10), "+q"(carry) : : "cc", "memory");
        CHECK(a == 0x1112 && si == 0x2224 && r10 == 0x3336 && carry == 1);
        __asm__ volatile("int3" : "+a"(a) : : "memory");
        CHECK_EQ(a, 99);
    }
    printf("%d ud2, %d int3\n", ills, traps);
    return exit_success();
}
