// stack_growth: the main thread's stack grows by itself as it is used, far beyond what was mapped at first (4 MB here),
// and again after it was unwound. The shim's own frames and mappings must leave it room.
#include "check.h"
#include <sys/resource.h>

enum { FRAME = 4096 };

static __attribute__((noinline)) uint32_t recurse(int depth) {
    volatile unsigned char frame[FRAME];
    for (int i = 0; i < FRAME; i += 512) frame[i] = (unsigned char)(depth + i / 512);
    uint32_t sum = depth > 0 ? recurse(depth - 1) : 0;
    for (int i = 0; i < FRAME; i += 512) {
        CHECK_EQ(frame[i], (unsigned char)(depth + i / 512));
        sum = sum * 31 + frame[i];
    }
    return sum;
}

int main(void) {
    struct rlimit limit;
    CHECK_EQ(getrlimit(RLIMIT_STACK, &limit), 0);
    CHECK(limit.rlim_cur >= 5 << 20);
    uint32_t first = recurse((4 << 20) / (FRAME + 128));
    for (int i = 0; i < 3; i++) CHECK_EQ(recurse((4 << 20) / (FRAME + 128)), first);
    printf("4 MB of stack used four times, sum %u\n", first);
    return exit_success();
}
