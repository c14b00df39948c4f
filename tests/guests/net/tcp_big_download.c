// tcp_big_download: 4 MB out through non-blocking sockets to a client that reads slowly: writes end short or with
// EAGAIN, EPOLLOUT tells when to go on, and a second client is served meanwhile. How much fits is input, too.
#include "net.h"
#include <sys/epoll.h>

struct connection {
    struct reader *reader;
    size_t sent, size; // of the download under way
    bool waited;       // for room, at least once
};
static int epoll;
static uint32_t content[1 << 20]; // 4 MB

static void watch(struct connection *c, int op, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    CHECK_EQ(epoll_ctl(epoll, op, c->reader->fd, &event), 0);
}

// Sends what fits; the end of it is one line.
static void go_on(struct connection *c) {
    while (c->sent < c->size) {
        ssize_t n = write(c->reader->fd, (char *)content + c->sent, c->size - c->sent);
        if (n == -1) {
            CHECK_EQ(errno, EAGAIN);
            c->waited = true;
            watch(c, EPOLL_CTL_MOD, EPOLLOUT);
            return;
        }
        CHECK(n > 0);
        c->sent += (size_t)n;
    }
    reply(c->reader->fd, "sent %zu%s", c->size, c->waited ? ", had to wait" : "");
    printf("sent %zu\n", c->size);
    c->size = 0;
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

int main(int argc, char **argv) {
    int listener = tcp_listen(argc, argv, 0);
    struct epoll_event event = {.events = EPOLLIN};
    CHECK((epoll = epoll_create1(0)) >= 0);
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event), 0);
    fill_counters(content, 1 << 20, 0);
    for (;;) {
        CHECK_EQ(epoll_wait(epoll, &event, 1, -1), 1);
        struct connection *c = event.data.ptr;
        if (c == NULL) {
            int buffer = 65536;
            c = calloc(1, sizeof *c);
            c->reader = reader_new(tcp_accept(listener));
            CHECK_EQ(setsockopt(c->reader->fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer), 0);
            CHECK_EQ(fcntl(c->reader->fd, F_SETFL, O_NONBLOCK), 0);
            watch(c, EPOLL_CTL_ADD, EPOLLIN);
        } else if (c->size > 0) {
            CHECK_EQ(event.events, EPOLLOUT);
            go_on(c);
        } else {
            char *line = next_line(c->reader);
            if (line == NULL) continue;
            if (strcmp(line, "quit") == 0) {
                reply(c->reader->fd, "bye");
                return exit_success();
            }
            CHECK_EQ(sscanf(line, "get %zu", &c->size), 1);
            CHECK(c->size > 0 && c->size <= sizeof content);
            c->sent = 0, c->waited = false;
            go_on(c);
        }
    }
}
