// tcp_peek: recv with MSG_PEEK leaves the data, MSG_DONTWAIT does not wait on a blocking socket, MSG_WAITALL waits for
// all of it across several arrivals, MSG_TRUNC throws away; FIONREAD counts. Protocol sniffers and TLS stacks use them.
#include "net.h"
#include <sys/ioctl.h>

int main(int argc, char **argv) {
    int listener = tcp_listen(argc, argv, 0), fd = tcp_accept(listener), count;
    char line[100], buffer[100] = {0};
    while (read_line(fd, line, sizeof line) && strcmp(line, "quit") != 0) {
        if (strcmp(line, "dontwait") == 0) {
            CHECK_ERR(recv(fd, buffer, 10, MSG_DONTWAIT), EAGAIN);
            CHECK_ERR(recv(fd, buffer, 10, MSG_DONTWAIT | MSG_PEEK), EAGAIN);
            CHECK_EQ(ioctl(fd, FIONREAD, &count), 0);
            CHECK_EQ(count, 0);
        } else if (strcmp(line, "peek 10") == 0) {
            struct pollfd p = {.fd = fd, .events = POLLIN};
            while (recv(fd, buffer, 10, MSG_PEEK) < 10) CHECK_EQ(poll(&p, 1, -1), 1); // may come in pieces
            CHECK_EQ(memcmp(buffer, "0123456789", 10), 0);
            CHECK_EQ(recv(fd, buffer, 4, MSG_PEEK), 4);
            CHECK_EQ(ioctl(fd, FIONREAD, &count), 0);
            CHECK_EQ(count, 10);
            CHECK_EQ(recv(fd, buffer, 4, 0), 4);
            CHECK_EQ(memcmp(buffer, "0123", 4), 0);
            CHECK_EQ(recv(fd, buffer, 100, MSG_PEEK), 6);
            CHECK_EQ(memcmp(buffer, "456789", 6), 0);
            CHECK_EQ(recv(fd, buffer, 100, MSG_DONTWAIT), 6);
        } else if (strcmp(line, "waitall 30") == 0) {
            reply(fd, "go"); // the client sends in three pieces
            CHECK_EQ(recv(fd, buffer, 30, MSG_WAITALL), 30);
            CHECK_EQ(memcmp(buffer, "first-ten.second-ten.third-ten", 30), 0);
        } else if (strcmp(line, "truncate 10") == 0) {
            for (ssize_t gone = 0, n; gone < 10; gone += n)
                CHECK((n = recv(fd, NULL, (size_t)(10 - gone), MSG_TRUNC)) > 0);
        }
        reply(fd, "ok %s", line);
        printf("%s\n", line);
    }
    reply(fd, "bye");
    CHECK_EQ(recv(fd, buffer, 30, MSG_WAITALL), 7); // the end of file ends it early
    CHECK_EQ(memcmp(buffer, "the end", 7), 0);
    CHECK_EQ(recv(fd, buffer, 10, MSG_PEEK), 0);
    return exit_success();
}
