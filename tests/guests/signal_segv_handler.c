// signal_segv_handler: a program handles its own SIGSEGV, on an alternate stack, with the fault's address and reason:
// it opens the page and goes on, or jumps out. Garbage collectors (JVM, node) live on this; the shim owns the signal.
#include "check.h"
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

enum { PAGE = 4096, PAGES = 16 };
static char *area;
static volatile int faults, last_code;
static char *volatile last_address;
static sigjmp_buf out;

static void open_page(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    faults++;
    last_code = info->si_code;
    last_address = info->si_addr;
    CHECK_EQ(mprotect((char *)((uintptr_t)info->si_addr & -(uintptr_t)PAGE), PAGE, PROT_READ | PROT_WRITE), 0);
}

static void jump_out(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    last_code = info->si_code;
    last_address = info->si_addr;
    siglongjmp(out, 1);
}

static void install(void (*handler)(int, siginfo_t *, void *)) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    CHECK_EQ(sigaction(SIGSEGV, &action, NULL), 0);
}

int main(void) {
    static char alternate[65536];
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    CHECK_EQ(sigaltstack(&stack, NULL), 0);
    area = mmap(NULL, PAGE * PAGES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(area != MAP_FAILED);

    install(open_page);
    for (int i = 0; i < PAGES; i++) {
        volatile char *at = area + i * PAGE + 100 + i;
        if (i % 2) *at = (char)i;
        else CHECK_EQ(*at, 0);
        CHECK(faults == i + 1 && last_address == at && last_code == SEGV_ACCERR);
        *at = (char)i; // no fault now
    }
    printf("%d pages opened by their faults\n", faults);

    install(jump_out);
    for (volatile int i = 0; i < 10; i++) {
        if (sigsetjmp(out, 1) == 0) {
            *(volatile char *)(uintptr_t)(16 + i) = 1;
            CHECK(!"wrote near NULL");
        }
        CHECK(last_address == (char *)(uintptr_t)(16 + i) && last_code == SEGV_MAPERR);
    }
    puts("jumped out of 10 faults near NULL");

    CHECK_EQ(mprotect(area, PAGE, PROT_READ), 0);
    if (sigsetjmp(out, 1) == 0) {
        *(volatile char *)area = 1;
        CHECK(!"wrote to a read-only page");
    }
    CHECK(last_address == area && last_code == SEGV_ACCERR);
    if (sigsetjmp(out, 1) == 0) {
        ((void (*)(void))(area + PAGE))(); // not executable
        CHECK(!"executed data");
    }
    CHECK(last_address == area + PAGE && last_code == SEGV_ACCERR);
    puts("and of a write to a read-only and a call to a data page");
    return exit_success();
}
