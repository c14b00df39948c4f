// tcp_echo_blocking: the simplest server: accept, read, write, all blocking, one client at a time; the next one waits
// in the backlog and finds its bytes kept.
#include "net.h"

int main(int argc, char **argv) {
    int listener = tcp_listen(argc, argv, 0);
    bool quit = false;
    for (int client = 1; !quit; client++) {
        long lines = 0;
        struct reader *r = reader_new(tcp_accept(listener));
        quit = echo_lines(r, &lines);
        CHECK(quit || r->eof);
        printf("client %d: %ld lines\n", client, lines);
        CHECK_EQ(close(r->fd), 0);
        free(r);
    }
    return exit_success();
}
