// hooked_registers: a system call changes rax, rcx and r11 and nothing else: no other register, no flag, no part of a
// vector register, nothing below the stack pointer, however often it is made and whatever instructions are around it.
#include "check.h"
#include <stddef.h>
#include <sys/syscall.h>

#define GETPPID "110"

struct state {
    uint64_t general[16]; // rax rcx rdx rbx rsp rbp rsi rdi r8 - r15
    uint64_t flags;
    uint64_t red_zone[16];
    uint64_t x87;
    uint32_t mxcsr, pad;
    uint8_t vector[16][64] __attribute__((aligned(64)));
};
enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12 };

struct state before, after;
uint64_t return_address;
int vectors; // 0: xmm, 1: ymm, 2: zmm

// Sets all registers from `before`, makes the call with CALL, and stores them in `after`. What CALL needs of eax is in
// `before`; the red zone is filled last, with moves, which leave the flags alone.
#define SITE(NAME, CALL)                                                                                          \
    __asm__(".text\n.type " NAME ", @function\n" NAME ":\n.cfi_startproc\n"                                       \
            "push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"                             \
            "fldl before+264(%rip)\n ldmxcsr before+272(%rip)\n"                                                  \
            "lea before+320(%rip), %rdi\n call load_vectors\n"                                                    \
            "pushq before+128(%rip)\n popfq\n"                                                                    \
            "mov %rsp, before+32(%rip)\n"                                                                         \
            "mov before+136(%rip), %rax\n mov %rax, -8(%rsp)\n mov before+144(%rip), %rax\n mov %rax, -16(%rsp)\n" \
            "mov before+200(%rip), %rax\n mov %rax, -72(%rsp)\n mov before+256(%rip), %rax\n mov %rax, -128(%rsp)\n" \
            "mov before(%rip), %rax\n mov before+8(%rip), %rcx\n mov before+16(%rip), %rdx\n"                     \
            "mov before+24(%rip), %rbx\n mov before+40(%rip), %rbp\n mov before+48(%rip), %rsi\n"                 \
            "mov before+56(%rip), %rdi\n mov before+64(%rip), %r8\n mov before+72(%rip), %r9\n"                   \
            "mov before+80(%rip), %r10\n mov before+88(%rip), %r11\n mov before+96(%rip), %r12\n"                 \
            "mov before+104(%rip), %r13\n mov before+112(%rip), %r14\n mov before+120(%rip), %r15\n" CALL         \
            "mov %rax, after(%rip)\n mov %rcx, after+8(%rip)\n mov %rdx, after+16(%rip)\n"                        \
            "mov %rbx, after+24(%rip)\n mov %rsp, after+32(%rip)\n mov %rbp, after+40(%rip)\n"                    \
            "mov %rsi, after+48(%rip)\n mov %rdi, after+56(%rip)\n mov %r8, after+64(%rip)\n"                     \
            "mov %r9, after+72(%rip)\n mov %r10, after+80(%rip)\n mov %r11, after+88(%rip)\n"                     \
            "mov %r12, after+96(%rip)\n mov %r13, after+104(%rip)\n mov %r14, after+112(%rip)\n"                  \
            "mov %r15, after+120(%rip)\n"                                                                         \
            "mov -8(%rsp), %rax\n mov %rax, after+136(%rip)\n mov -16(%rsp), %rax\n mov %rax, after+144(%rip)\n"  \
            "mov -72(%rsp), %rax\n mov %rax, after+200(%rip)\n mov -128(%rsp), %rax\n mov %rax, after+256(%rip)\n" \
            "lea 7b(%rip), %rax\n mov %rax, return_address(%rip)\n"                                               \
            "pushfq\n popq after+128(%rip)\n pushq $0x202\n popfq\n"                                              \
            "fstpl after+264(%rip)\n stmxcsr after+272(%rip)\n"                                                   \
            "lea after+320(%rip), %rdi\n call store_vectors\n"                                                    \
            "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n"                             \
            ".cfi_endproc\n.size " NAME ", .-" NAME "\n")

// A number of five bytes before the call; of seven; a comparison after it; three instructions before it; nothing that
// could be moved away; and a comparison that could, had not some other instruction its address.
SITE("with_number", "mov $" GETPPID ", %eax\n syscall\n 7:\n");
SITE("with_wide_number", "mov $" GETPPID ", %rax\n syscall\n 7:\n");
SITE("with_comparison", "mov before(%rip), %rax\n syscall\n 7: cmp $-4095, %rax\n");
SITE("with_short_ones", "mov before(%rip), %rax\n xor %eax, %eax\n mov $" GETPPID ", %al\n nop\n syscall\n 7:\n");
SITE("alone", "mov before(%rip), %rax\n syscall\n 7:\n");
SITE("jumped_into", "mov before(%rip), %rax\n jmp 5f\n je 7f\n 5: syscall\n 7: cmp $-4095, %rax\n");
void with_number(void), with_wide_number(void), with_comparison(void), with_short_ones(void), alone(void), jumped_into(void);

#define EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14) DO(15)
#define LOAD(WHAT, KIND, N) WHAT " " #N "*64(%rdi), %" KIND #N "\n"
#define STORE(WHAT, KIND, N) WHAT " %" KIND #N ", " #N "*64(%rdi)\n"
#define LOAD_XMM(N) LOAD("movups", "xmm", N)
#define LOAD_YMM(N) LOAD("vmovups", "ymm", N)
#define LOAD_ZMM(N) LOAD("vmovups", "zmm", N)
#define STORE_XMM(N) STORE("movups", "xmm", N)
#define STORE_YMM(N) STORE("vmovups", "ymm", N)
#define STORE_ZMM(N) STORE("vmovups", "zmm", N)
__asm__(".text\nload_vectors:\n cmpl $1, vectors(%rip)\n je 1f\n ja 2f\n" EACH(LOAD_XMM) "ret\n1:" EACH(LOAD_YMM)
        "ret\n2:" EACH(LOAD_ZMM) "ret\n"
        "store_vectors:\n cmpl $1, vectors(%rip)\n je 1f\n ja 2f\n" EACH(STORE_XMM) "ret\n1:" EACH(STORE_YMM)
        "vzeroupper\nret\n2:" EACH(STORE_ZMM) "vzeroupper\nret\n");

// Carry, parity, adjust, zero, sign, direction and overflow.
static const uint64_t flags[] = {0x202, 0x203, 0x206, 0x212, 0x242, 0x282, 0x602, 0xa02, 0xed7};

static void fill(uint64_t seed) {
    uint64_t x = seed * 0x9e3779b97f4a7c15 + 1;
    uint8_t *at = (uint8_t *)&before;
    for (size_t i = 0; i < sizeof before; i++) {
        x = x * 6364136223846793005 + 1442695040888963407;
        at[i] = x >> 56;
    }
    before.general[RAX] = SYS_getppid;
    before.flags = flags[seed % (sizeof flags / sizeof *flags)];
    double one = 1.0 / (seed + 3);
    memcpy(&before.x87, &one, 8);
    before.mxcsr = 0x1f80 | (seed % 4) << 13;
}

static void check(const char *name, void (*site)(void), bool compares, bool clears) {
    for (int n = 0; n < 60; n++) {
        fill(n);
        memset(&after, 0, sizeof after);
        site();
        CHECK_EQ((int)after.general[RAX], getppid());
        CHECK_EQ(after.general[RCX], return_address);
        for (int r = RDX; r <= R12 + 3; r++)
            if (r != R11) CHECK_EQ(after.general[r], before.general[r]);
        uint64_t flags = after.general[R11] & 0xed7;
        // zero and parity after `xor`, which leaves adjust undefined
        CHECK_EQ(flags & ~0x10ul, clears ? (before.flags & 0x602) | 0x44 : before.flags & 0xec7);
        // the comparison: carry, as the result is no error; the rest follows from it
        if (!compares) CHECK_EQ(after.flags & 0xed7, flags);
        CHECK_EQ(after.flags & 0x600, before.flags & 0x600);
        static const int slots[] = {0, 1, 8, 15};
        for (int i = 0; i < 4; i++) CHECK_EQ(after.red_zone[slots[i]], before.red_zone[slots[i]]);
        CHECK_EQ(after.x87, before.x87);
        CHECK_EQ(after.mxcsr & 0xffc0, before.mxcsr & 0xffc0);
        for (int v = 0; v < 16; v++) CHECK_EQ(memcmp(after.vector[v], before.vector[v], vectors == 2 ? 64 : vectors ? 32 : 16), 0);
    }
    printf("%s\n", name);
}

int main(void) {
    _Static_assert(offsetof(struct state, vector) == 320 && offsetof(struct state, x87) == 264, "as the sites have it");
    const int most = __builtin_cpu_supports("avx512f") ? 2 : __builtin_cpu_supports("avx") ? 1 : 0;
    for (vectors = 0; vectors <= most; vectors++) {
        check("a number before it", with_number, false, false);
        check("a wide number before it", with_wide_number, false, false);
        check("a comparison after it", with_comparison, true, false);
        check("short instructions before it", with_short_ones, false, true);
        check("nothing around it", alone, false, false);
        check("a jump to behind it", jumped_into, true, false);
    }
    return exit_success();
}
