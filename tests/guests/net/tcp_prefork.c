// tcp_prefork: three worker processes block in accept on one inherited listener; each connection gets exactly one of
// them. Apache and many scripting-language servers; the accept queue is shared state between processes.
#include "net.h"
#include <sys/wait.h>

enum { WORKERS = 3, QUIT = 77 };

static void work(int listener) {
    for (;;) {
        long lines = 0;
        struct reader *r = reader_new(tcp_accept(listener));
        if (echo_lines(r, &lines)) _exit(QUIT);
        CHECK_EQ(close(r->fd), 0);
        free(r);
    }
}

int main(int argc, char **argv) {
    int listener = tcp_listen(argc, argv, 0), status;
    pid_t workers[WORKERS];
    for (int i = 0; i < WORKERS; i++) {
        CHECK((workers[i] = fork()) >= 0);
        if (workers[i] == 0) work(listener);
    }
    CHECK_EQ(close(listener), 0);
    pid_t first = wait(&status);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == QUIT);
    for (int i = 0; i < WORKERS; i++) {
        if (workers[i] == first) continue;
        CHECK_EQ(kill(workers[i], SIGTERM), 0);
        CHECK_EQ(waitpid(workers[i], &status, 0), workers[i]);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
    }
    printf("%d workers, one was told to quit\n", WORKERS);
    return exit_success();
}
