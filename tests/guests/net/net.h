// Shared by the network guests. Each is a server: `program PORT`, listening on 0.0.0.0, speaking a line protocol until
// a client says "quit"; drive.py has the client's side. Servers print the same whatever the timing of packets.
#ifndef NET_H
#define NET_H
#include "check.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/socket.h>

static inline uint16_t port_argument(int argc, char **argv) {
    if (argc != 2 || atoi(argv[1]) <= 0 || atoi(argv[1]) > 65535) {
        dprintf(2, "usage: %s PORT\n", argv[0]);
        exit(2);
    }
    return (uint16_t)atoi(argv[1]);
}

static inline struct sockaddr_in any_address(uint16_t port) {
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_ANY)};
}

// A listening socket on the port given by the command line; `flags` as for socket().
static inline int tcp_listen(int argc, char **argv, int flags) {
    struct sockaddr_in address = any_address(port_argument(argc, argv));
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    CHECK(fd >= 0);
    CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), 0);
    CHECK_EQ(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    CHECK_EQ(listen(fd, 128), 0);
    return fd;
}

static inline int tcp_accept(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

// All of it, waiting for room if the socket is non-blocking. False if the client is gone.
static inline bool send_all(int fd, const void *data, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t n = write(fd, (const char *)data + done, size - done);
        if (n == -1 && errno == EAGAIN) {
            struct pollfd p = {.fd = fd, .events = POLLOUT};
            CHECK(poll(&p, 1, -1) == 1);
        } else if (n == -1 && (errno == EPIPE || errno == ECONNRESET)) {
            return false;
        } else if (!(n == -1 && errno == EINTR)) {
            CHECK(n > 0);
            done += (size_t)n;
        }
    }
    return true;
}

__attribute__((format(printf, 2, 3))) static inline void reply(int fd, const char *format, ...) {
    char line[1000];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    CHECK(length >= 0 && length < (int)sizeof line - 1);
    line[length] = '\n';
    send_all(fd, line, (size_t)length + 1);
}

// One line from a blocking socket, byte by byte: nothing after the newline is taken. False at the end of file.
static inline bool read_line(int fd, char *line, size_t size) {
    for (size_t length = 0;; length++) {
        CHECK(length < size);
        ssize_t n = recv(fd, line + length, 1, 0);
        if (n == 0 || (n == -1 && errno == ECONNRESET)) return false;
        CHECK_EQ(n, 1);
        if (line[length] == '\n') {
            line[length] = 0;
            return true;
        }
    }
}

// Lines from a blocking or non-blocking socket, read ahead.
struct reader {
    int fd;
    bool eof;
    size_t start, end;
    char bytes[1 << 17];
};

static inline struct reader *reader_new(int fd) {
    struct reader *r = malloc(sizeof *r);
    CHECK(r != NULL);
    r->fd = fd, r->eof = false, r->start = r->end = 0;
    return r;
}

// The next line, good until the next call, or NULL: at the end of file (r->eof), or when no more has come yet.
static inline char *next_line(struct reader *r) {
    for (;;) {
        char *newline = memchr(r->bytes + r->start, '\n', r->end - r->start);
        if (newline != NULL) {
            char *line = r->bytes + r->start;
            *newline = 0;
            r->start = (size_t)(newline + 1 - r->bytes);
            return line;
        }
        memmove(r->bytes, r->bytes + r->start, r->end - r->start);
        r->end -= r->start;
        r->start = 0;
        CHECK(r->end < sizeof r->bytes);
        ssize_t n = read(r->fd, r->bytes + r->end, sizeof r->bytes - r->end);
        if (n == -1 && errno == EAGAIN) return NULL;
        if (n == 0 || (n == -1 && errno == ECONNRESET)) {
            r->eof = true;
            return NULL;
        }
        CHECK(n > 0);
        r->end += (size_t)n;
    }
}

// Echoes complete lines until no more have come. True if one of them was "quit" (answered by "bye").
static inline bool echo_lines(struct reader *r, long *lines) {
    for (char *line; (line = next_line(r)) != NULL;) {
        if (strcmp(line, "quit") == 0) {
            reply(r->fd, "bye");
            return true;
        }
        size_t length = strlen(line);
        line[length] = '\n';
        send_all(r->fd, line, length + 1);
        ++*lines;
    }
    return false;
}

// Adler-32, as zlib.adler32 has it; begins with 1.
static inline uint32_t adler32(uint32_t sum, const void *data, size_t size) {
    uint32_t a = sum & 0xffff, b = sum >> 16;
    for (size_t i = 0; i < size; i++) {
        a = (a + ((const unsigned char *)data)[i]) % 65521;
        b = (b + a) % 65521;
    }
    return b << 16 | a;
}

// The stream that transfers are made of: little-endian 32-bit counters.
static inline void fill_counters(uint32_t *words, size_t count, uint32_t first) {
    for (size_t i = 0; i < count; i++) words[i] = first + (uint32_t)i;
}

#endif
