// fork_cow: after fork, parent and child each have their own data, heap, stack and private mappings: what one writes,
// the other never sees. BGSAVE-like children rely on the frozen picture, here of 8 MB.
#include "check.h"
#include <sys/mman.h>
#include <sys/wait.h>

enum { SIZE = 8 << 20 };
static int data = 1;
static char bss[10000];

static uint32_t checksum(const unsigned char *p) {
    uint32_t sum = 0;
    for (int i = 0; i < SIZE; i += 64) sum = sum * 31 + p[i];
    return sum;
}

int main(void) {
    int stack = 1, to_child[2], to_parent[2], status;
    char c;
    int *heap = malloc(sizeof *heap);
    unsigned char *map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(map != MAP_FAILED);
    *heap = 1;
    for (int i = 0; i < SIZE; i += 64) map[i] = (unsigned char)(i / 64 * 7);
    uint32_t before = checksum(map);
    CHECK(pipe(to_child) == 0 && pipe(to_parent) == 0);

    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK_EQ(read(to_child[0], &c, 1), 1); // the parent has changed everything by now
        CHECK(data == 1 && *heap == 1 && stack == 1 && bss[5000] == 0);
        CHECK_EQ(checksum(map), before);
        data = *heap = stack = 3;
        memset(bss, 3, sizeof bss);
        memset(map, 3, SIZE);
        CHECK_EQ(write(to_parent[1], "w", 1), 1);
        CHECK_EQ(read(to_child[0], &c, 1), 1);
        CHECK(data == 3 && map[SIZE / 2] == 3);
        _exit(0);
    }
    data = *heap = stack = 2;
    memset(bss, 2, sizeof bss);
    memset(map, 2, SIZE);
    CHECK_EQ(write(to_child[1], "w", 1), 1);
    CHECK_EQ(read(to_parent[0], &c, 1), 1); // now the child has
    CHECK(data == 2 && *heap == 2 && stack == 2 && bss[5000] == 2);
    for (int i = 0; i < SIZE; i++) CHECK_EQ(map[i], 2);
    CHECK_EQ(write(to_child[1], "e", 1), 1);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    printf("child saw the picture with sum %u, parent its own\n", before);
    return exit_success();
}
