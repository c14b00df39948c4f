// fork_many: ten children one after another, then ten at a time, each computing something of its own from what it
// inherited and returning it; none is left over.
#include "check.h"
#include <sys/wait.h>

enum { CHILDREN = 10 };

int main(void) {
    int status, seed = 0, fds[2];
    pid_t children[CHILDREN];
    for (int i = 0; i < CHILDREN; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) _exit((seed * 3 + i) % 200);
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK(WIFEXITED(status));
        seed = WEXITSTATUS(status);
    }
    printf("one after another: %d\n", seed);
    CHECK_EQ(fflush(stdout), 0);

    CHECK_EQ(pipe(fds), 0);
    for (int i = 0; i < CHILDREN; i++) {
        CHECK((children[i] = fork()) >= 0);
        if (children[i] == 0) {
            int message[2] = {i, i * i + seed};
            CHECK_EQ(write(fds[1], message, sizeof message), sizeof message);
            _exit(i);
        }
    }
    CHECK_EQ(close(fds[1]), 0);
    int message[2], sum = 0, seen = 0;
    ssize_t n;
    while ((n = read(fds[0], message, sizeof message)) > 0) {
        CHECK_EQ(n, sizeof message);
        CHECK_EQ(message[1], message[0] * message[0] + seed);
        seen |= 1 << message[0];
        sum += message[1];
    }
    CHECK(n == 0 && seen == (1 << CHILDREN) - 1);
    for (int i = CHILDREN - 1; i >= 0; i--) {
        CHECK_EQ(waitpid(children[i], &status, 0), children[i]);
        CHECK_EQ(WEXITSTATUS(status), i);
    }
    CHECK_ERR(wait(NULL), ECHILD);
    printf("ten at a time: %d\n", sum);
    return exit_success();
}
