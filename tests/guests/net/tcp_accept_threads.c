// tcp_accept_threads: four threads block in accept on one listener and serve whom they get; the last word ends the
// process while the others still wait. Each connection must wake exactly one thread.
#include "net.h"

static int listener;

static void *serve(void *arg) {
    for (;;) {
        long lines = 0;
        struct reader *r = reader_new(tcp_accept(listener));
        bool quit = echo_lines(r, &lines);
        CHECK_EQ(close(r->fd), 0);
        free(r);
        if (quit) return arg;
    }
}

// Whichever thread is told to quit ends the process.
static void *serve_and_end(void *arg) {
    serve(arg);
    puts("one of four threads was told to quit");
    exit(exit_success());
}

int main(int argc, char **argv) {
    listener = tcp_listen(argc, argv, 0);
    for (int i = 0; i < 3; i++) spawn(serve_and_end, NULL);
    serve_and_end(NULL);
}
