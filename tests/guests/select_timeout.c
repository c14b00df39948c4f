// select_timeout: select returns 0 at or after its timeout with empty sets, and on Linux writes back the time left.
// The old way to sleep, and some loops count on the time left.
#include "check.h"
#include <sys/select.h>

static int64_t in_us(struct timeval t) { return t.tv_sec * 1000000ll + t.tv_usec; }

int main(void) {
    int fds[2];
    CHECK_EQ(pipe(fds), 0);
    fd_set set;
    for (int ms = 0; ms <= 20; ms += 10) {
        struct timeval timeout = {.tv_usec = ms * 1000};
        FD_ZERO(&set);
        FD_SET(fds[0], &set);
        int64_t start = now_ns(CLOCK_MONOTONIC);
        CHECK_EQ(select(fds[0] + 1, &set, NULL, NULL, &timeout), 0);
        CHECK(now_ns(CLOCK_MONOTONIC) - start >= ms * NS_PER_MS);
        CHECK(!FD_ISSET(fds[0], &set));
        CHECK_EQ(in_us(timeout), 0);
        timeout.tv_usec = ms * 1000;
        start = now_ns(CLOCK_MONOTONIC);
        CHECK_EQ(select(0, NULL, NULL, NULL, &timeout), 0);
        CHECK(now_ns(CLOCK_MONOTONIC) - start >= ms * NS_PER_MS);
        printf("%d ms: not early, nothing left\n", ms);
    }
    CHECK_EQ(write(fds[1], "x", 1), 1);
    struct timeval timeout = {.tv_sec = 60}, negative = {.tv_sec = -1};
    FD_ZERO(&set);
    FD_SET(fds[0], &set);
    CHECK_EQ(select(fds[0] + 1, &set, NULL, NULL, &timeout), 1);
    CHECK(in_us(timeout) > 30000000 && in_us(timeout) <= 60000000);
    CHECK_ERR(select(0, NULL, NULL, NULL, &negative), EINVAL);
    puts("an event comes first, the rest is written back");
    return exit_success();
}
