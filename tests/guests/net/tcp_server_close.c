// tcp_server_close: every way for a server to end a connection: close, shutdown and reading on, close with unread data,
// close with SO_LINGER 0 (a reset) and with a linger time (waits for delivery). The client sees the right end each
// time: what it takes for a crash, and what for an answer's end, depends on it.
#include "net.h"

static void set_linger(int fd, int seconds) {
    struct linger linger = {.l_onoff = 1, .l_linger = seconds};
    CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger), 0);
}

int main(int argc, char **argv) {
    static char block[200000];
    char line[100];
    int listener = tcp_listen(argc, argv, 0);
    bool quit = false;
    memset(block, 'b', sizeof block);
    while (!quit) {
        int fd = tcp_accept(listener);
        CHECK(read_line(fd, line, sizeof line));
        if (strcmp(line, "close") == 0) {
            reply(fd, "closing");
        } else if (strcmp(line, "shutdown") == 0) {
            reply(fd, "shutting down");
            CHECK_EQ(shutdown(fd, SHUT_WR), 0);
            CHECK_ERR(send(fd, "x", 1, MSG_NOSIGNAL), EPIPE);
            int lines = 0;
            while (read_line(fd, line, sizeof line)) lines++;
            printf("%d lines after shutdown\n", lines);
        } else if (strcmp(line, "unread") == 0) {
            struct pollfd p = {.fd = fd, .events = POLLIN};
            CHECK_EQ(poll(&p, 1, -1), 1); // there is something to leave unread
        } else if (strcmp(line, "reset") == 0) {
            set_linger(fd, 0);
        } else if (strcmp(line, "linger") == 0) {
            CHECK(send_all(fd, block, sizeof block));
            set_linger(fd, 10);
        } else if (strcmp(line, "quit") == 0) {
            reply(fd, "bye");
            quit = true;
        }
        printf("%s: closed\n", strcmp(line, "quit") == 0 ? "quit" : "client");
        CHECK_EQ(close(fd), 0);
    }
    return exit_success();
}
