// tcp_half_close: the client shuts down its sending side; the server reads to the end of file and still sends 1 MB,
// which arrives whole. HTTP/1.0 clients, `nc -N` and database dumps work this way.
#include "net.h"

int main(int argc, char **argv) {
    static uint32_t answer[1 << 18];
    static char buffer[10000];
    int listener = tcp_listen(argc, argv, 0);
    fill_counters(answer, 1 << 18, 1000);
    for (int client = 1; client <= 2; client++) {
        int fd = tcp_accept(listener);
        size_t total = 0;
        uint32_t sum = 1;
        ssize_t n;
        while ((n = read(fd, buffer, sizeof buffer)) > 0) {
            total += (size_t)n;
            sum = adler32(sum, buffer, (size_t)n);
        }
        CHECK_EQ(n, 0);
        CHECK_EQ(read(fd, buffer, 1), 0); // the end stays
        struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT | POLLRDHUP};
        CHECK_EQ(poll(&p, 1, -1), 1);
        CHECK_EQ(p.revents, POLLIN | POLLOUT | POLLRDHUP); // not POLLHUP: only one half is closed
        CHECK(send_all(fd, answer, sizeof answer));
        reply(fd, "%zu bytes %08x", total, sum);
        CHECK_EQ(close(fd), 0);
        printf("client %d: %zu bytes, sum %08x, then 1 MB back\n", client, total, sum);
    }
    char line[100];
    int fd = tcp_accept(listener);
    CHECK(read_line(fd, line, sizeof line) && strcmp(line, "quit") == 0);
    reply(fd, "bye");
    return exit_success();
}
