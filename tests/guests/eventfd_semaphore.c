// eventfd_semaphore: with EFD_SEMAPHORE each read takes one, whatever was added at once, and threads that share it take
// each token exactly once.
#include "check.h"
#include <sys/eventfd.h>

enum { THREADS = 4, TOKENS = 400 };
static int fd;

static void *take_tokens(void *arg) {
    long taken = 0;
    for (;;) {
        eventfd_t one;
        CHECK_EQ(eventfd_read(fd, &one), 0);
        CHECK_EQ(one, 1);
        taken++;
        if (taken == TOKENS / THREADS) return (void *)taken;
    }
    return arg;
}

int main(void) {
    eventfd_t value;
    CHECK((fd = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK)) >= 0);
    CHECK_EQ(eventfd_write(fd, 3), 0);
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(eventfd_read(fd, &value), 0);
        CHECK_EQ(value, 1);
    }
    CHECK_ERR(eventfd_read(fd, &value), EAGAIN);
    puts("2 + 3: five reads of one");

    CHECK((fd = eventfd(0, EFD_SEMAPHORE)) >= 0);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) threads[i] = spawn(take_tokens, NULL);
    for (int i = 0; i < TOKENS / 8; i++) CHECK_EQ(eventfd_write(fd, 8), 0);
    long sum = 0;
    for (int i = 0; i < THREADS; i++) sum += (long)join(threads[i]);
    printf("%d threads took %ld tokens\n", THREADS, sum);
    return exit_success();
}
