// getrandom_len: getrandom fills exactly what was asked, whatever the length, never the same twice, and refuses unknown
// flags. Recorded input on one host, copied on the other: keys and hash seeds must be equal there, and only there.
#include "check.h"
#include <sys/random.h>

static unsigned char a[100000], b[100000];

int main(void) {
    static const size_t lengths[] = {1, 7, 8, 16, 255, 256, 257, 4096, 100000};
    CHECK_EQ(getrandom(a, 0, 0), 0);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        size_t length = lengths[i];
        memset(a, 0, sizeof a);
        CHECK_EQ(getrandom(a, length, i % 2 ? GRND_NONBLOCK : 0), length);
        for (size_t j = length; j < sizeof a; j++) CHECK_EQ(a[j], 0); // nothing beyond
        CHECK_EQ(getrandom(b, length, 0), length);
        if (length >= 16) CHECK(memcmp(a, b, length) != 0);
    }
    puts("exact lengths, never the same");

    int counts[256] = {0};
    for (size_t i = 0; i < sizeof a; i++) counts[a[i]]++;
    for (int i = 0; i < 256; i++) CHECK(counts[i] > 200 && counts[i] < 600); // 390 expected
    puts("all byte values about equally often");

    CHECK_EQ(getrandom(a, 16, GRND_RANDOM), 16);
    CHECK_EQ(getentropy(a, 256), 0);
    CHECK_ERR(getentropy(a, 257), EIO);
    CHECK_ERR(getrandom(a, 16, 0x100), EINVAL);
    volatile uintptr_t bad = 8;
    CHECK_ERR(getrandom((void *)bad, 16, 0), EFAULT);
    puts("flags");
    return exit_success();
}
