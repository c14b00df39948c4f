// malloc_stress: four threads allocate, grow, check and free blocks of all sizes, also each other's: brk, mmap, mremap,
// madvise and the arena locks under load. One page zeroed or moved wrongly spoils a checksum.
#include "check.h"

enum { THREADS = 4, STEPS = 20000, SLOTS = 256 };
struct block { size_t size; uint32_t sum; unsigned char bytes[]; };
static struct block *shared[SLOTS];

static uint32_t checksum(const struct block *b) {
    uint32_t sum = 17;
    for (size_t i = 0; i < b->size; i += 1 + b->size / 64) sum = sum * 31 + b->bytes[i];
    return sum;
}

static void check_and_free(struct block *b) {
    if (b == NULL) return;
    CHECK_EQ(b->sum, checksum(b));
    free(b);
}

static struct block *make(uint32_t random) {
    size_t size = random % 100 == 0 ? random % 300000 : random % 10 == 0 ? random % 20000 : random % 500;
    struct block *b = random & 0x10000 ? malloc(sizeof *b + size) : calloc(1, sizeof *b + size);
    CHECK(b != NULL);
    if (!(random & 0x10000))
        for (size_t i = 0; i < size; i += 1 + size / 64) CHECK_EQ(b->bytes[i], 0);
    b->size = size;
    memset(b->bytes, (int)random, size);
    b->sum = checksum(b);
    return b;
}

static struct block *grow(struct block *b) {
    CHECK_EQ(b->sum, checksum(b));
    size_t size = b->size * 2;
    CHECK((b = realloc(b, sizeof *b + size)) != NULL);
    if (size > 0) memset(b->bytes + b->size, b->bytes[0], b->size);
    b->size = size;
    b->sum = checksum(b);
    return b;
}

static void *stress(void *arg) {
    uint32_t random = (uint32_t)(uintptr_t)arg;
    long allocated = 0;
    for (int i = 0; i < STEPS; i++) {
        random = random * 1664525 + 1013904223;
        struct block *b = make(random >> 7);
        allocated += (long)b->size;
        if ((random >> 20) % 8 == 0) b = grow(b);
        // into a slot; whatever another thread had put there is ours now
        check_and_free(__atomic_exchange_n(&shared[(random >> 12) % SLOTS], b, __ATOMIC_SEQ_CST));
    }
    return (void *)allocated;
}

int main(void) {
    pthread_t threads[THREADS];
    long allocated = 0;
    for (uintptr_t i = 0; i < THREADS; i++) threads[i] = spawn(stress, (void *)(i + 1));
    for (int i = 0; i < THREADS; i++) allocated += (long)join(threads[i]);
    for (int i = 0; i < SLOTS; i++) check_and_free(shared[i]);
    printf("%d blocks, %ld bytes\n", THREADS * STEPS, allocated);
    return exit_success();
}
