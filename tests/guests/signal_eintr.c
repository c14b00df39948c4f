// signal_eintr: a handler ends a blocking read with EINTR, or with SA_RESTART lets it go on until data come; the same
// for a write to a full pipe. Servers are written for one or the other, and lose data if they get the wrong one.
#include "check.h"
#include <fcntl.h>
#include <signal.h>

static int pipe_fds[2];
static volatile int runs, interrupted;

static void on_signal(int signal) { (void)signal, runs++; }

static void install(int flags) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = flags};
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    runs = interrupted = 0;
}

static void *read_until_eintr(void *arg) {
    char c;
    CHECK_ERR(read(pipe_fds[0], &c, 1), EINTR);
    interrupted = 1;
    return arg;
}

static void *read_restarting(void *arg) {
    char c = 0;
    CHECK_EQ(read(pipe_fds[0], &c, 1), 1);
    CHECK_EQ(c, 'x');
    return arg;
}

static void *write_until_eintr(void *arg) {
    char block[4096] = {0};
    CHECK_ERR(write(pipe_fds[1], block, sizeof block), EINTR);
    interrupted = 1;
    return arg;
}

// Signals until it worked: the first ones may come before the thread blocks.
static void interrupt(void *(*body)(void *)) {
    pthread_t thread = spawn(body, NULL);
    while (!interrupted) {
        sleep_ms(2);
        if (!interrupted) CHECK_EQ(pthread_kill(thread, SIGUSR1), 0);
    }
    join(thread);
    CHECK(runs > 0);
}

int main(void) {
    CHECK_EQ(pipe(pipe_fds), 0);
    install(0);
    interrupt(read_until_eintr);
    puts("read: EINTR");

    install(SA_RESTART);
    pthread_t reader = spawn(read_restarting, NULL);
    for (int i = 1; i <= 10; i++) {
        sleep_ms(2);
        CHECK_EQ(pthread_kill(reader, SIGUSR1), 0);
        while (runs < i) sleep_ms(1);
    }
    CHECK_EQ(write(pipe_fds[1], "x", 1), 1);
    join(reader);
    printf("read with SA_RESTART: data after %d handlers\n", runs);

    char block[4096] = {0};
    CHECK_EQ(fcntl(pipe_fds[1], F_SETFL, O_NONBLOCK), 0);
    while (write(pipe_fds[1], block, sizeof block) > 0) {}
    CHECK_EQ(errno, EAGAIN);
    CHECK_EQ(fcntl(pipe_fds[1], F_SETFL, 0), 0);
    install(0);
    interrupt(write_until_eintr);
    puts("write to a full pipe: EINTR");
    return exit_success();
}
