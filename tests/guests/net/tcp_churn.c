// tcp_churn: hundreds of short connections one after another, on the same descriptor number each time, some closed by
// the client first, some by the server: nothing leaks. Ids, ports and slots are used again and again.
#include "net.h"

int main(int argc, char **argv) {
    int listener = tcp_listen(argc, argv, 0), number = -1, clients = 0;
    char line[100];
    for (bool quit = false; !quit; clients++) {
        int fd = tcp_accept(listener);
        if (number == -1) number = fd;
        CHECK_EQ(fd, number);
        CHECK(read_line(fd, line, sizeof line));
        quit = strcmp(line, "quit") == 0;
        reply(fd, "%s", quit ? "bye" : line);
        if (!quit && clients % 2) CHECK(!read_line(fd, line, sizeof line)); // the client closes first
        CHECK_EQ(close(fd), 0);
    }
    printf("%d clients on one descriptor number\n", clients);
    return exit_success();
}
