// mprotect: protections change page by page and are enforced (SIGSEGV), contents stay, code written at run time can be
// made executable and run; a range with a hole is ENOMEM. Just-in-time compilers and guard pages.
#include "check.h"
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

enum { PAGE = 4096 };
static sigjmp_buf out;

static void on_fault(int signal) { (void)signal, siglongjmp(out, 1); }

static bool can_read(volatile char *at) {
    if (sigsetjmp(out, 1) != 0) return false;
    (void)*at;
    return true;
}

static bool can_write(volatile char *at) {
    if (sigsetjmp(out, 1) != 0) return false;
    *at = *at;
    return true;
}

int main(void) {
    CHECK(signal(SIGSEGV, on_fault) != SIG_ERR);
    char *area = mmap(NULL, 5 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(area != MAP_FAILED);
    memset(area, 'x', 5 * PAGE);
    CHECK_EQ(mprotect(area + PAGE, PAGE, PROT_READ), 0);
    CHECK_EQ(mprotect(area + 3 * PAGE, PAGE, PROT_NONE), 0);
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(can_read(area + i * PAGE), i != 3);
        CHECK_EQ(can_write(area + i * PAGE), i != 1 && i != 3);
    }
    CHECK_EQ(mprotect(area, 5 * PAGE, PROT_READ | PROT_WRITE), 0);
    for (int i = 0; i < 5 * PAGE; i++) CHECK_EQ(area[i], 'x');
    puts("page by page, contents kept");

    // mov eax, edi; add eax, imm8; ret
    unsigned char code[] = {0x89, 0xf8, 0x83, 0xc0, 0x00, 0xc3};
    for (int i = 1; i <= 3; i++) {
        code[4] = (unsigned char)i;
        CHECK_EQ(mprotect(area, PAGE, PROT_READ | PROT_WRITE), 0);
        memcpy(area, code, sizeof code);
        CHECK_EQ(mprotect(area, PAGE, PROT_READ | PROT_EXEC), 0);
        CHECK_EQ(((int (*)(int))(void *)area)(100), 100 + i);
        CHECK(!can_write(area));
    }
    puts("written, made executable, run, three times over");

    CHECK_EQ(munmap(area + 2 * PAGE, PAGE), 0);
    CHECK_ERR(mprotect(area, 5 * PAGE, PROT_READ), ENOMEM);
    CHECK_ERR(mprotect(area + 1, PAGE, PROT_READ), EINVAL);
    CHECK_ERR(mprotect(area + 3 * PAGE, PAGE, 0x100), EINVAL);
    puts("holes and senseless arguments are refused");
    return exit_success();
}
