// mremap: mappings shrink and grow, in place or by moving with MREMAP_MAYMOVE, keep their contents, and the new part is
// zero; MREMAP_FIXED moves onto a given place. glibc's realloc does this for large blocks.
#include "check.h"
#include <sys/mman.h>

enum { PAGE = 4096 };

static char *map(size_t pages) {
    char *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p != MAP_FAILED);
    return p;
}

static void fill(char *p, int pages) {
    for (int i = 0; i < pages; i++) memset(p + i * PAGE, 'a' + i, PAGE);
}

// The first `old` pages as filled, the others zero.
static void check(const char *p, int old, int pages) {
    for (int i = 0; i < pages * PAGE; i++) CHECK_EQ(p[i], i / PAGE < old ? 'a' + i / PAGE : 0);
}

int main(void) {
    char *p = map(8);
    fill(p, 8);
    CHECK(mremap(p, 8 * PAGE, 4 * PAGE, 0) == p);
    check(p, 4, 4);
    CHECK(mremap(p, 4 * PAGE, 6 * PAGE, 0) == p); // there is room: we just gave it back
    check(p, 4, 6);
    puts("shrinks and grows in place");

    char *wall = mmap(p + 6 * PAGE, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CHECK(wall == p + 6 * PAGE);
    CHECK_ERR(mremap(p, 6 * PAGE, 9 * PAGE, 0), ENOMEM);
    char *moved = mremap(p, 6 * PAGE, 9 * PAGE, MREMAP_MAYMOVE);
    CHECK(moved != MAP_FAILED && moved != p);
    check(moved, 4, 9);
    CHECK_ERR(mremap(p, PAGE, PAGE, 0), EFAULT); // nothing is left there
    puts("moves when it must");

    char *target = map(9);
    fill(target, 9);
    CHECK(mremap(moved, 9 * PAGE, 5 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target) == target);
    check(target, 4, 5);
    CHECK_EQ(target[5 * PAGE], 'a' + 5); // only what was asked for is replaced
    CHECK_ERR(mremap(target, 2 * PAGE, PAGE, MREMAP_FIXED, moved), EINVAL);
    CHECK_ERR(mremap(target + 1, PAGE, PAGE, 0), EINVAL);
    CHECK_ERR(mremap(target, PAGE, 0, 0), EINVAL);
    puts("moves where it is told");

    size_t size = 300000;
    unsigned char *block = malloc(size);
    for (size_t i = 0; i < size; i++) block[i] = (unsigned char)(i * 3);
    for (; size < 20000000; size *= 2) {
        CHECK((block = realloc(block, size * 2)) != NULL);
        for (size_t i = 0; i < size; i += 97) CHECK_EQ(block[i], i < 300000 ? (unsigned char)(i * 3) : 7);
        memset(block + size, 7, size);
    }
    free(block);
    puts("realloc to 38 MB");
    return exit_success();
}
