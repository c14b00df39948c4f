// brk_sbrk: the heap's end moves up and down, contents stay, what was given back comes again as zeroes, and an
// impossible end is refused and changes nothing. glibc's malloc begins here; so does the shim's choice of addresses.
#include "check.h"
#include <sys/syscall.h>

enum { PAGE = 4096 };

int main(void) {
    static char out[4096];
    setvbuf(stdout, out, _IOFBF, sizeof out); // so that nothing here calls malloc
    char *start = sbrk(0);
    CHECK(start != (void *)-1);
    CHECK_EQ(sbrk(10 * PAGE), start);
    CHECK_EQ(sbrk(0), start + 10 * PAGE);
    for (int i = 0; i < 10 * PAGE; i++) CHECK_EQ(start[i], 0);
    memset(start, 'h', 10 * PAGE);
    CHECK_EQ(sbrk(100), start + 10 * PAGE); // not whole pages
    CHECK_EQ(sbrk(0), start + 10 * PAGE + 100);
    CHECK_EQ(brk(start + 4 * PAGE), 0);
    CHECK_EQ(sbrk(0), start + 4 * PAGE);
    CHECK_EQ(brk(start + 10 * PAGE), 0);
    uintptr_t kept_end = ((uintptr_t)start + 4 * PAGE + PAGE - 1) & -(uintptr_t)PAGE; // the page with the end stays
    for (char *p = start; p < start + 10 * PAGE; p++) CHECK_EQ(*p, (uintptr_t)p < kept_end ? 'h' : 0);
    puts("up, down, up again: zeroes");

    // the raw call returns the end, the old one when it refuses
    CHECK_EQ(syscall(SYS_brk, 0), start + 10 * PAGE);
    CHECK_EQ(syscall(SYS_brk, 1), start + 10 * PAGE);
    CHECK_EQ(syscall(SYS_brk, start - (1l << 40)), start + 10 * PAGE);
    CHECK_ERR(brk(start + (1l << 46)), ENOMEM);
    CHECK_EQ(sbrk(0), start + 10 * PAGE);
    puts("impossible ends change nothing");

    for (int i = 0; i < 100; i++) {
        char *block = sbrk(16 * PAGE);
        CHECK(block != (void *)-1);
        memset(block, i, 16 * PAGE);
    }
    for (int i = 0; i < 100; i++) CHECK_EQ(start[10 * PAGE + i * 16 * PAGE + 77], (char)i);
    CHECK_EQ(brk(start), 0);
    puts("grown by 6 MB in steps and given back");
    return exit_success();
}
