// tcp_sendfile: a file goes out by sendfile over TCP, under a header held back with TCP_CORK / MSG_MORE: web servers'
// fast path. Disk on the one side, a client who reads at leisure on the other.
#include "net.h"
#include "guest_dir.h"
#include <sys/sendfile.h>

int main(int argc, char **argv) {
    static uint32_t content[1 << 18];
    char line[100];
    int on = 1, off = 0, listener = tcp_listen(argc, argv, 0), fd = tcp_accept(listener);
    guest_dir_enter();
    int file = open_new("file");
    fill_counters(content, 1 << 18, 7);
    CHECK(send_all(file, content, sizeof content));
    while (read_line(fd, line, sizeof line) && strcmp(line, "quit") != 0) {
        off_t offset;
        size_t size;
        CHECK_EQ(sscanf(line, "send %ld %zu", &offset, &size), 2);
        CHECK_EQ(setsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, sizeof on), 0);
        reply(fd, "header %zu", size);
        CHECK_EQ(send(fd, "more\n", 5, MSG_MORE), 5);
        size_t sent = 0;
        while (sent < size) {
            ssize_t n = sendfile(fd, file, &offset, size - sent);
            CHECK(n > 0);
            sent += (size_t)n;
        }
        CHECK_EQ(setsockopt(fd, IPPROTO_TCP, TCP_CORK, &off, sizeof off), 0);
        printf("sent %zu bytes up to offset %ld\n", sent, offset);
    }
    reply(fd, "bye");
    return exit_success();
}
