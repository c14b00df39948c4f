// mmap_fixed: MAP_FIXED replaces what was there, MAP_FIXED_NOREPLACE fails with EEXIST instead, munmap may cut holes
// and span them. Allocators and garbage collectors build their heaps so.
#include "check.h"
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

enum { PAGE = 4096, PAGES = 16 };
static sigjmp_buf out;

static void on_fault(int signal) { (void)signal, siglongjmp(out, 1); }

static bool mapped(const char *at) {
    if (sigsetjmp(out, 1) != 0) return false;
    (void)*(const volatile char *)at;
    return true;
}

static char *map(void *at, size_t pages, int flags) {
    return mmap(at, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
}

int main(void) {
    CHECK(signal(SIGSEGV, on_fault) != SIG_ERR);
    char *area = map(NULL, PAGES, 0);
    CHECK(area != MAP_FAILED);
    memset(area, 'a', PAGES * PAGE);

    CHECK(map(area + 4 * PAGE, 2, MAP_FIXED) == area + 4 * PAGE);
    for (int i = 0; i < PAGES; i++) CHECK_EQ(area[i * PAGE], i == 4 || i == 5 ? 0 : 'a');
    puts("MAP_FIXED replaces: fresh zeroes, neighbours kept");

    CHECK_ERR(map(area + 4 * PAGE, 2, MAP_FIXED_NOREPLACE), EEXIST);
    CHECK_EQ(munmap(area + 8 * PAGE, 3 * PAGE), 0);
    CHECK_ERR(map(area + 7 * PAGE, 2, MAP_FIXED_NOREPLACE), EEXIST);
    CHECK_EQ(area[7 * PAGE], 'a');
    CHECK(map(area + 9 * PAGE, 1, MAP_FIXED_NOREPLACE) == area + 9 * PAGE);
    for (int i = 0; i < PAGES; i++) CHECK_EQ(mapped(area + i * PAGE), i != 8 && i != 10);
    puts("MAP_FIXED_NOREPLACE fills a hole or fails");

    CHECK_EQ(munmap(area + 6 * PAGE, 6 * PAGE), 0); // over both holes
    CHECK_EQ(munmap(area + 6 * PAGE, 6 * PAGE), 0); // nothing there: not an error
    for (int i = 0; i < PAGES; i++) CHECK_EQ(mapped(area + i * PAGE), i < 6 || i > 11);
    CHECK(area[5 * PAGE] == 0 && area[12 * PAGE] == 'a');
    CHECK_ERR(munmap(area + 1, PAGE), EINVAL);
    CHECK_ERR(munmap(area, 0), EINVAL);
    CHECK_ERR(map(area + 100, 1, MAP_FIXED), EINVAL);
    puts("munmap over holes");
    return exit_success();
}
