// tcp_echo_epoll: the usual event loop: one epoll, a non-blocking listener drained to EAGAIN, many clients at once,
// edge-triggered reads. Redis, nginx and node look like this from below.
#include "net.h"
#include <sys/epoll.h>

int main(int argc, char **argv) {
    int listener = tcp_listen(argc, argv, SOCK_NONBLOCK), epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[16];
    long clients = 0, lines = 0;
    bool quit = false;
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event), 0);
    while (!quit) {
        int n = epoll_wait(epoll, events, 16, -1);
        CHECK(n > 0);
        for (int i = 0; i < n; i++) {
            struct reader *r = events[i].data.ptr;
            if (r == NULL) {
                for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0; clients++) {
                    event = (struct epoll_event){.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = reader_new(fd)};
                    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), 0);
                }
                CHECK_EQ(errno, EAGAIN);
                continue;
            }
            quit |= echo_lines(r, &lines);
            if (r->eof) {
                CHECK_EQ(close(r->fd), 0); // takes it out of the epoll
                free(r);
            }
        }
    }
    printf("%ld clients, %ld lines\n", clients, lines);
    return exit_success();
}
