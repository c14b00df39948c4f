// tcp_reset: clients that reset their connection (SO_LINGER 0) while the server reads, while it writes, and before it
// has accepted: it sees ECONNRESET, EPIPE or an end of file, never a crash or a hang, and goes on with the next.
#include "net.h"

int main(int argc, char **argv) {
    static char block[100000];
    char line[100];
    int listener = tcp_listen(argc, argv, 0), greeted = 0;
    for (;;) {
        int fd = tcp_accept(listener);
        bool quit = false;
        while (!quit && read_line(fd, line, sizeof line)) {
            if (strcmp(line, "hello") == 0) {
                greeted++;
                reply(fd, "hello");
            } else if (strcmp(line, "flood") == 0) {
                while (send_all(fd, block, sizeof block)) {} // until the client is gone
                CHECK(send(fd, block, 1, 0) == -1);
            } else if (strcmp(line, "count") == 0) {
                reply(fd, "%d greeted", greeted);
            } else if (strcmp(line, "quit") == 0) {
                reply(fd, "bye");
                quit = true;
            }
        }
        CHECK_EQ(close(fd), 0);
        if (quit) break;
    }
    printf("%d clients greeted\n", greeted);
    return exit_success();
}
