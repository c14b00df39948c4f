// poll_timeout: poll and ppoll return 0 at or after the timeout, with or without descriptors, and ppoll leaves its
// timespec alone. Old programs sleep with poll(0, 0, ms).
#include "check.h"
#include <poll.h>

int main(void) {
    int fds[2];
    CHECK_EQ(pipe(fds), 0);
    struct pollfd p = {.fd = fds[0], .events = POLLIN, .revents = 99};
    for (int ms = 0; ms <= 20; ms += 10) {
        int64_t start = now_ns(CLOCK_MONOTONIC);
        CHECK_EQ(poll(&p, 1, ms), 0);
        CHECK(now_ns(CLOCK_MONOTONIC) - start >= ms * NS_PER_MS);
        CHECK_EQ(p.revents, 0);
        start = now_ns(CLOCK_MONOTONIC);
        CHECK_EQ(poll(NULL, 0, ms), 0);
        CHECK(now_ns(CLOCK_MONOTONIC) - start >= ms * NS_PER_MS);
        printf("%d ms: not early\n", ms);
    }
    struct timespec timeout = {.tv_nsec = 3500000}, bad = {.tv_nsec = NS_PER_S};
    int64_t start = now_ns(CLOCK_MONOTONIC);
    CHECK_EQ(ppoll(&p, 1, &timeout, NULL), 0);
    CHECK(now_ns(CLOCK_MONOTONIC) - start >= 3500000);
    CHECK(timeout.tv_sec == 0 && timeout.tv_nsec == 3500000);
    CHECK_ERR(ppoll(&p, 1, &bad, NULL), EINVAL);
    CHECK_EQ(write(fds[1], "x", 1), 1);
    CHECK_EQ(poll(&p, 1, 60000), 1);
    puts("3.5 ms with ppoll; an event comes first");
    return exit_success();
}
