// tcp_echo_threads: a thread per connection with blocking reads, and main waiting for clients or for the end. Old Java
// and C servers; every connection is a parked thread.
#include "net.h"
#include <sys/eventfd.h>

static int ended;
static long lines;

static void *serve(void *arg) {
    long mine = 0;
    struct reader *r = reader_new((int)(intptr_t)arg);
    bool quit = echo_lines(r, &mine);
    __atomic_fetch_add(&lines, mine, __ATOMIC_SEQ_CST);
    CHECK_EQ(close(r->fd), 0);
    free(r);
    if (quit) CHECK_EQ(eventfd_write(ended, 1), 0);
    return NULL;
}

int main(int argc, char **argv) {
    enum { CLIENTS = 100 };
    int listener = tcp_listen(argc, argv, 0), clients = 0;
    pthread_t threads[CLIENTS];
    CHECK((ended = eventfd(0, EFD_CLOEXEC)) >= 0);
    struct pollfd p[2] = {{.fd = listener, .events = POLLIN}, {.fd = ended, .events = POLLIN}};
    while (poll(p, 2, -1) > 0 && p[1].revents == 0) {
        CHECK(p[0].revents == POLLIN && clients < CLIENTS);
        threads[clients++] = spawn(serve, (void *)(intptr_t)tcp_accept(listener));
    }
    for (int i = 0; i < clients; i++) join(threads[i]); // the driver has closed all others
    printf("%d clients, %ld lines\n", clients, lines);
    return exit_success();
}
