// timerfd_epoll: timers in an epoll set come in the order of their deadlines, stay ready until read, and can be moved
// or disarmed while the loop waits for them: a small event loop with nothing but timers.
#include "check.h"
#include <sys/epoll.h>
#include <sys/timerfd.h>

enum { TIMERS = 5 };
static int epoll, fds[TIMERS];

static void arm(int i, int ms) {
    struct itimerspec t = {.it_value = timespec_of_ns(ms * NS_PER_MS)};
    CHECK_EQ(timerfd_settime(fds[i], 0, &t, NULL), 0);
}

static int next_index(void) {
    struct epoll_event event;
    CHECK_EQ(epoll_wait(epoll, &event, 1, 20000), 1);
    CHECK_EQ(event.events, EPOLLIN);
    return (int)event.data.u32;
}

static void *rearm(void *arg) {
    sleep_ms(10);
    arm(4, 1); // from a day to a millisecond
    return arg;
}

int main(void) {
    uint64_t count;
    struct epoll_event events[TIMERS];
    CHECK((epoll = epoll_create1(0)) >= 0);
    for (uint32_t i = 0; i < TIMERS; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
        CHECK((fds[i] = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)) >= 0);
        CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &event), 0);
    }
    static const int delays_ms[TIMERS] = {300, 100, 400, 0, 200}; // 0: disarmed; far enough apart for a busy machine
    for (int i = 0; i < TIMERS; i++) arm(i, delays_ms[i]);
    CHECK_EQ(epoll_wait(epoll, events, TIMERS, 0), 0);

    printf("fired:");
    for (int n = 0; n < 4; n++) {
        int i = next_index();
        CHECK_EQ(read(fds[i], &count, sizeof count), sizeof count);
        printf(" %d", i);
    }
    puts("");
    CHECK_EQ(epoll_wait(epoll, events, TIMERS, 30), 0);

    arm(3, 1);
    for (int n = 0; n < 3; n++) CHECK_EQ(next_index(), 3); // level-triggered: until read
    CHECK_EQ(read(fds[3], &count, sizeof count), sizeof count);
    CHECK_EQ(epoll_wait(epoll, events, TIMERS, 0), 0);

    arm(4, 24 * 3600 * 1000);
    pthread_t thread = spawn(rearm, NULL);
    CHECK_EQ(next_index(), 4);
    join(thread);
    arm(4, 0); // disarming makes it unready too
    CHECK_EQ(epoll_wait(epoll, events, TIMERS, 0), 0);
    CHECK_ERR(read(fds[4], &count, sizeof count), EAGAIN);
    puts("moved and disarmed while waited for");
    return exit_success();
}
