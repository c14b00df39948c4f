// eventfd_blocking: a read of an empty eventfd and a write to a full one wait until another thread makes them possible.
#include "check.h"
#include <sys/eventfd.h>

enum { ROUNDS = 300 };
static int there, back;

static void *echo(void *arg) {
    for (;;) {
        eventfd_t value;
        CHECK_EQ(eventfd_read(there, &value), 0);
        CHECK_EQ(eventfd_write(back, value + 1), 0);
        if (value == ROUNDS) return arg;
    }
}

static void *drain(void *fd) {
    eventfd_t value;
    sleep_ms(10); // the writer waits by then, most likely
    CHECK_EQ(eventfd_read(*(int *)fd, &value), 0);
    CHECK_EQ(value, UINT64_MAX - 1);
    return NULL;
}

int main(void) {
    eventfd_t value;
    CHECK((there = eventfd(0, 0)) >= 0 && (back = eventfd(0, 0)) >= 0);
    pthread_t thread = spawn(echo, NULL);
    for (int i = 1; i <= ROUNDS; i++) {
        CHECK_EQ(eventfd_write(there, i), 0);
        CHECK_EQ(eventfd_read(back, &value), 0);
        CHECK_EQ(value, i + 1);
    }
    join(thread);
    printf("%d round trips\n", ROUNDS);

    CHECK_EQ(eventfd_write(there, UINT64_MAX - 1), 0);
    thread = spawn(drain, &there);
    CHECK_EQ(eventfd_write(there, 9), 0);
    join(thread);
    CHECK_EQ(eventfd_read(there, &value), 0);
    CHECK_EQ(value, 9);
    puts("a full one waited to be drained");
    return exit_success();
}
