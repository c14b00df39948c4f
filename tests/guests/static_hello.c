// static_hello: a statically linked program, which no preloaded library can reach: it prints, reads a file, asks the
// clock, allocates and handles a signal. Go servers look like this to a shim.
#include "check.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/auxv.h>

static volatile int runs;
static void on_signal(int signal) { (void)signal, runs++; }

int main(void) {
    char text[64];
    CHECK_EQ(getauxval(AT_BASE), 0); // really without a dynamic linker
    puts("hello");

    int fd = open("/proc/self/comm", O_RDONLY);
    CHECK(fd >= 0);
    CHECK_EQ(read(fd, text, sizeof text), 13);
    CHECK_EQ(memcmp(text, "static_hello\n", 13), 0);
    CHECK_EQ(close(fd), 0);
    puts("read a file");

    int64_t start = now_ns(CLOCK_MONOTONIC), wall = time(NULL);
    sleep_ms(5);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 5 * NS_PER_MS);
    CHECK(wall > 1577836800);
    puts("asked the clock");

    for (int i = 0; i < 100; i++) {
        char *block = malloc((size_t)(i * 5000 + 1));
        memset(block, i, (size_t)(i * 5000 + 1));
        __asm__ volatile("" : : "r"(block) : "memory"); // or gcc drops it all
        free(block);
    }
    CHECK(signal(SIGUSR1, on_signal) != SIG_ERR);
    CHECK_EQ(raise(SIGUSR1), 0);
    CHECK_EQ(runs, 1);
    puts("allocated, handled a signal");
    return exit_success();
}
