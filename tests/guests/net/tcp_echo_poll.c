// tcp_echo_poll: the event loop of older servers: an array for poll that grows and shrinks with the clients.
#include "net.h"

enum { SLOTS = 100 };

int main(int argc, char **argv) {
    struct pollfd p[SLOTS] = {{.fd = tcp_listen(argc, argv, SOCK_NONBLOCK), .events = POLLIN}};
    struct reader *readers[SLOTS] = {NULL};
    int count = 1, clients = 0;
    long lines = 0;
    bool quit = false;
    while (!quit) {
        CHECK(poll(p, (nfds_t)count, -1) > 0);
        for (int i = count - 1; i > 0; i--) {
            if (p[i].revents == 0) continue;
            quit |= echo_lines(readers[i], &lines);
            if (!readers[i]->eof) continue;
            CHECK_EQ(close(p[i].fd), 0);
            free(readers[i]);
            p[i] = p[--count];
            readers[i] = readers[count];
        }
        if (p[0].revents == 0) continue;
        int fd;
        while ((fd = accept4(p[0].fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
            CHECK(count < SLOTS);
            p[count] = (struct pollfd){.fd = fd, .events = POLLIN};
            readers[count++] = reader_new(fd);
            clients++;
        }
        CHECK_EQ(errno, EAGAIN);
    }
    printf("%d clients, %ld lines\n", clients, lines);
    return exit_success();
}
