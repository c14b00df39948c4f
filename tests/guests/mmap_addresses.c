// mmap_addresses: anonymous mappings are zeroed, page-aligned, never overlap one another, the heap, the stack or the
// code, and stay put; a hint may be honoured or not, but does no harm. The shim chooses all these addresses itself.
#include "check.h"
#include <sys/mman.h>

enum { MAPS = 200, PAGE = 4096 };
static struct { char *start; size_t size; } maps[MAPS];

static bool overlap(const void *a, size_t a_size, const void *b, size_t b_size) {
    return (const char *)a < (const char *)b + b_size && (const char *)b < (const char *)a + a_size;
}

int main(void) {
    char on_stack;
    void *on_heap = malloc(100);
    uint32_t random = 99;
    for (int i = 0; i < MAPS; i++) {
        random = random * 1664525 + 1013904223;
        size_t size = PAGE * (1 + (random >> 16) % 40) - (random >> 8) % 100; // not always whole pages
        void *hint = i % 4 == 1 ? maps[i - 1].start : i % 4 == 2 ? (void *)0x123456789000 : NULL;
        char *start = mmap(hint, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(start != MAP_FAILED && (uintptr_t)start % PAGE == 0);
        CHECK((uintptr_t)start < 0x7fffffffffff);
        CHECK(!overlap(start, size, &on_stack, 1) && !overlap(start, size, on_heap, 100));
        CHECK(!overlap(start, size, main, 1));
        for (int j = 0; j < i; j++)
            CHECK(maps[j].start == NULL || !overlap(start, size, maps[j].start, maps[j].size));
        for (size_t b = 0; b < size; b++) CHECK_EQ(start[b], 0);
        memset(start, i + 1, size);
        maps[i].start = start, maps[i].size = size;
        if (i % 5 == 4) { // and give one back
            int victim = i - 3;
            CHECK_EQ(munmap(maps[victim].start, maps[victim].size), 0);
            maps[victim].start = NULL;
        }
    }
    int kept = 0;
    for (int i = 0; i < MAPS; i++) {
        if (maps[i].start == NULL) continue;
        for (size_t b = 0; b < maps[i].size; b++) CHECK_EQ(maps[i].start[b], (char)(i + 1));
        kept++;
    }
    printf("%d mappings, %d kept, contents intact\n", MAPS, kept);

    CHECK_ERR(mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), EINVAL);
    CHECK_ERR(mmap(NULL, PAGE, PROT_READ, MAP_ANONYMOUS, -1, 0), EINVAL); // neither shared nor private
    CHECK_ERR(mmap(NULL, (size_t)1 << 50, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM);
    char *large = mmap(NULL, (size_t)1 << 36, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(large != MAP_FAILED); // 64 GB of nothing, as Go and the JVM reserve
    CHECK_EQ(munmap(large, (size_t)1 << 36), 0);
    char *low = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    CHECK(low != MAP_FAILED && (uintptr_t)low + PAGE <= 0x80000000);
    puts("senseless sizes refused, a large reservation and a low mapping granted");
    return exit_success();
}
