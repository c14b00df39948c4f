// server PORT: one thread, epoll. A connection says in lines what it wants. PORT + 1 is listened on, and accepted from
// only when somebody says so.
//
//   echo TEXT        "K TEXT": the connection's Kth
//   name ID          others call the connection ID
//   upload N         takes N bytes of the pattern; "uploaded N"
//   download N       N bytes of the pattern
//   count            takes the pattern to its end; "ended N" and the end
//   wait             the same, but "ended N" only on `answer ID`
//   shut N           N bytes of the pattern and a FIN; goes on taking the pattern
//   close N          N bytes of the pattern, and is closed
//   pause ID         nothing more of ID is read, until `resume ID`
//   answer ID        see wait
//   abort ID         resets ID
//   seen ID          "open N", "ended N" or "reset N": N bytes of the pattern were taken
//   accept           takes whoever waits on PORT + 1, and will wait
//
// The last five, and `name`, answer "ok" (`seen`: what it says).
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHECK(holds)                                                                          \
    do {                                                                                      \
        if (!(holds)) {                                                                       \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #holds, strerror(errno));  \
            abort();                                                                          \
        }                                                                                     \
    } while (0)
#define NAMES_MAX 256
#define PIECE_BYTES 65536
// A prime: no segment or buffer size divides it.
#define PATTERN_BYTES 1000003

enum mode { LINES, UPLOAD, COUNT, WAIT };

struct conn {
    int fd, name; // into names, or -1
    enum mode mode;
    char line[256], text[512]; // a line that comes; what goes before the pattern
    size_t line_length, text_length, text_sent;
    uint64_t in, in_end, out, out_end;
    unsigned echoed;
    bool paused, ended, answered, shut_after, close_after, is_shut;
    uint32_t watched;
};

static struct {
    char id[32];
    struct conn *conn;
    uint64_t in;
    const char *how;
} names[NAMES_MAX];
static int names_used, poller, later = -1;
static uint8_t pattern[PATTERN_BYTES + PIECE_BYTES], buffer[PIECE_BYTES];

static void watch(struct conn *c) {
    bool out = c->text_sent < c->text_length || c->out < c->out_end;
    // Commands wait for the answer to the last; the pattern does not.
    bool in = !c->paused && !c->ended && (!out || c->mode != LINES);
    struct epoll_event e = {.events = (in ? EPOLLIN : 0) | (out ? EPOLLOUT : 0), .data.ptr = c};
    if (e.events == c->watched) return;
    CHECK(epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e) == 0);
    c->watched = e.events;
}

static void over(struct conn *c, const char *how) {
    if (c->name >= 0) {
        names[c->name].conn = NULL;
        names[c->name].in = c->in;
        names[c->name].how = how;
    }
    CHECK(close(c->fd) == 0);
    free(c);
}

static void say(struct conn *c, const char *text) {
    if (c->text_sent == c->text_length) c->text_sent = c->text_length = 0;
    size_t n = strlen(text);
    CHECK(c->text_length + n + 1 <= sizeof c->text);
    memcpy(c->text + c->text_length, text, n);
    c->text[c->text_length + n] = '\n';
    c->text_length += n + 1;
}

static void say_ended(struct conn *c) {
    char text[64];
    snprintf(text, sizeof text, "ended %llu", (unsigned long long)c->in);
    say(c, text);
    c->close_after = true;
}

static int find(const char *id) {
    for (int i = 0; i < names_used; i++)
        if (!strcmp(names[i].id, id)) return i;
    return -1;
}

static void adopt(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && (errno == ECONNABORTED || errno == EINTR)) continue;
        if (fd < 0) {
            CHECK(errno == EAGAIN);
            return;
        }
        struct conn *c = calloc(1, sizeof *c);
        CHECK(c);
        c->fd = fd;
        c->name = -1;
        c->watched = EPOLLIN;
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        CHECK(epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e) == 0);
    }
}

static void send_what_goes(struct conn *c);

static void command(struct conn *c) {
    char *argument = strchr(c->line, ' ');
    if (argument) *argument++ = 0;
    else argument = c->line + strlen(c->line);
    const char *verb = c->line;
    uint64_t n = strtoull(argument, NULL, 10);
    char text[320];
    if (!strcmp(verb, "echo")) {
        snprintf(text, sizeof text, "%u %s", ++c->echoed, argument);
        say(c, text);
    } else if (!strcmp(verb, "name")) {
        CHECK(names_used < NAMES_MAX && c->name < 0 && strlen(argument) < sizeof names->id && find(argument) < 0);
        strcpy(names[names_used].id, argument);
        names[names_used].conn = c;
        c->name = names_used++;
        say(c, "ok");
    } else if (!strcmp(verb, "upload")) {
        c->mode = UPLOAD;
        c->in_end = c->in + n;
    } else if (!strcmp(verb, "download") || !strcmp(verb, "shut") || !strcmp(verb, "close")) {
        c->out_end = c->out + n;
        c->shut_after = *verb == 's';
        c->close_after = *verb == 'c';
        if (c->shut_after) c->mode = COUNT;
    } else if (!strcmp(verb, "count")) {
        c->mode = COUNT;
    } else if (!strcmp(verb, "wait")) {
        c->mode = WAIT;
    } else if (!strcmp(verb, "accept")) {
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = &later};
        CHECK(epoll_ctl(poller, EPOLL_CTL_ADD, later, &e) == 0);
        say(c, "ok");
    } else {
        int i = find(argument);
        struct conn *o = i < 0 ? NULL : names[i].conn;
        CHECK(i >= 0 && (o || !strcmp(verb, "seen")));
        if (!strcmp(verb, "seen")) {
            snprintf(text, sizeof text, "%s %llu", o ? "open" : names[i].how, (unsigned long long)(o ? o->in : names[i].in));
            say(c, text);
            return;
        }
        say(c, "ok");
        if (!strcmp(verb, "pause") || !strcmp(verb, "resume")) {
            o->paused = *verb == 'p';
            watch(o);
        } else if (!strcmp(verb, "answer")) {
            o->answered = true;
            if (o->ended) say_ended(o);
            send_what_goes(o);
        } else if (!strcmp(verb, "abort")) {
            struct linger now = {.l_onoff = 1, .l_linger = 0};
            CHECK(setsockopt(o->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now) == 0);
            over(o, "aborted");
        } else {
            CHECK(!"a known command");
        }
    }
}

// Frees `c` if that was all.
static void send_what_goes(struct conn *c) {
    while (c->text_sent < c->text_length || c->out < c->out_end) {
        bool text = c->text_sent < c->text_length;
        uint64_t left = c->out_end - c->out;
        const void *from = text ? (const void *)(c->text + c->text_sent) : pattern + c->out % PATTERN_BYTES;
        size_t size = text ? c->text_length - c->text_sent : left < PIECE_BYTES ? left : PIECE_BYTES;
        ssize_t n = send(c->fd, from, size, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) return watch(c);
        if (n < 0) {
            CHECK(errno == ECONNRESET || errno == EPIPE || errno == ETIMEDOUT);
            return over(c, "reset");
        }
        if (text) c->text_sent += n;
        else c->out += n;
    }
    if (c->close_after) return over(c, "ended");
    if (c->shut_after && !c->is_shut) {
        CHECK(shutdown(c->fd, SHUT_WR) == 0);
        c->is_shut = true;
    }
    watch(c);
}

static void take(struct conn *c, size_t n) {
    for (size_t i = 0; i < n;) {
        if (c->mode == LINES) {
            CHECK(c->line_length + 1 < sizeof c->line);
            char byte = (char)buffer[i++];
            if (byte != '\n') {
                c->line[c->line_length++] = byte;
            } else {
                c->line[c->line_length] = 0;
                c->line_length = 0;
                command(c);
            }
            continue;
        }
        size_t size = n - i;
        if (c->mode == UPLOAD && size > c->in_end - c->in) size = c->in_end - c->in;
        // A wrong byte must not pass for a slow network.
        CHECK(memcmp(buffer + i, pattern + c->in % PATTERN_BYTES, size) == 0);
        c->in += size;
        i += size;
        if (c->mode == UPLOAD && c->in == c->in_end) {
            char text[64];
            snprintf(text, sizeof text, "uploaded %llu", (unsigned long long)c->in);
            say(c, text);
            c->mode = LINES;
        }
    }
}

static void serve(struct conn *c, uint32_t events) {
    // Who is paused must hear of it too: it is said again and again.
    if (events & EPOLLERR && !(c->watched & EPOLLIN)) return over(c, "reset");
    if (c->watched & EPOLLIN) {
        // One line at a time is more than most read; what belongs to the pattern comes in pieces.
        ssize_t n = recv(c->fd, buffer, c->mode == LINES ? 200 : PIECE_BYTES, 0);
        if (n < 0 && errno != EAGAIN) {
            CHECK(errno == ECONNRESET || errno == ETIMEDOUT);
            return over(c, "reset");
        }
        if (n > 0) take(c, (size_t)n);
        if (n == 0) {
            bool waits = c->mode == WAIT && !c->answered;
            if (c->mode == LINES || c->mode == UPLOAD || c->shut_after) return over(c, "ended");
            if (!waits) say_ended(c);
            c->ended = true;
        }
    }
    send_what_goes(c);
}

static int listen_on(int port, int backlog) {
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1, off = 0;
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    CHECK(fd >= 0);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
    CHECK(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) == 0);
    CHECK(bind(fd, (struct sockaddr *)&any, sizeof any) == 0);
    CHECK(listen(fd, backlog) == 0);
    return fd;
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    int port = atoi(argv[1]), first;
    struct rlimit files;
    CHECK(getrlimit(RLIMIT_NOFILE, &files) == 0);
    files.rlim_cur = files.rlim_max;
    CHECK(setrlimit(RLIMIT_NOFILE, &files) == 0);
    for (uint32_t p = 0; p < PATTERN_BYTES; p++) pattern[p] = (uint8_t)((p * 0x9e3779b9u) >> 24);
    memcpy(pattern + PATTERN_BYTES, pattern, PIECE_BYTES);
    CHECK((poller = epoll_create1(EPOLL_CLOEXEC)) >= 0);
    later = listen_on(port + 1, 2);
    first = listen_on(port, 1024);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = &first};
    CHECK(epoll_ctl(poller, EPOLL_CTL_ADD, first, &e) == 0);
    for (;;) {
        // One at a time: what serving one does to another must not meet an event that was fetched before.
        int n = epoll_wait(poller, &e, 1, -1);
        CHECK(n >= 0 || errno == EINTR);
        if (n < 1) continue;
        if (e.data.ptr == &first) adopt(first);
        else if (e.data.ptr == &later) adopt(later);
        else serve(e.data.ptr, e.events);
    }
}
