// epoll_many: a thousand pipes in one epoll, a few of them ready at a time: exactly those are reported, in the order in
// which they became ready, however small the result array.
#include "check.h"
#include <sys/epoll.h>
#include <sys/resource.h>

enum { PIPES = 1000, ROUNDS = 200, READY = 7 };
static int fds[PIPES][2];

int main(void) {
    struct rlimit limit;
    struct epoll_event events[64];
    int epoll = epoll_create1(0);
    CHECK(epoll >= 0);
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_cur < 2 * PIPES + 50) {
        limit.rlim_cur = 2 * PIPES + 50;
        if (limit.rlim_max < limit.rlim_cur) limit.rlim_max = limit.rlim_cur;
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    }
    for (uint32_t i = 0; i < PIPES; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
        CHECK_EQ(pipe(fds[i]), 0);
        CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i][0], &event), 0);
    }
    CHECK_EQ(epoll_wait(epoll, events, 64, 0), 0);

    uint32_t random = 12345;
    long reported = 0;
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t chosen[READY];
        for (int i = 0; i < READY; i++) {
            random = random * 1664525 + 1013904223;
            chosen[i] = (random >> 8) % (PIPES / READY) * READY + (uint32_t)i; // all different
            CHECK_EQ(write(fds[chosen[i]][1], "x", 1), 1);
        }
        int slots = round % 2 ? 64 : 3;
        for (int done = 0; done < READY;) {
            int n = epoll_wait(epoll, events, slots, 1000);
            CHECK(n == (READY - done < slots ? READY - done : slots));
            for (int i = 0; i < n; i++, done++) {
                char c;
                CHECK_EQ(events[i].data.u32, chosen[done]);
                CHECK_EQ(read(fds[chosen[done]][0], &c, 1), 1);
                reported++;
            }
        }
        CHECK_EQ(epoll_wait(epoll, events, 64, 0), 0);
    }
    for (int i = 0; i < PIPES; i++) CHECK_EQ(close(fds[i][1]), 0);
    int hung_up = 0, n;
    while ((n = epoll_wait(epoll, events, 64, 0)) > 0) {
        for (int i = 0; i < n; i++, hung_up++) {
            CHECK_EQ(events[i].events, EPOLLHUP);
            CHECK_EQ(close(fds[events[i].data.u32][0]), 0);
        }
    }
    printf("%ld events reported, %d hang-ups\n", reported, hung_up);
    return exit_success();
}
