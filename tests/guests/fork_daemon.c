// fork_daemon: the steps of a daemon: a child makes itself a session of its own, forks again and ends; the grandchild
// lives on under a new parent, without a controlling terminal, and still serves its old pipe.
#include "check.h"
#include <fcntl.h>
#include <sys/wait.h>

int main(void) {
    int requests[2], answers[2], status;
    char c;
    CHECK(pipe(requests) == 0 && pipe(answers) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK_EQ(setsid(), getpid());
        CHECK(getsid(0) == getpid() && getpgrp() == getpid());
        CHECK_ERR(setsid(), EPERM); // a group leader can't
        pid_t session = getpid(), grandchild = fork();
        CHECK(grandchild >= 0);
        if (grandchild > 0) _exit(0);

        while (getppid() == session) sleep_ms(1); // until the child is gone
        CHECK(getsid(0) == session && getpgrp() == session && getpid() != session);
        CHECK_ERR(open("/dev/tty", O_RDWR), ENXIO);
        CHECK_EQ(chdir("/"), 0);
        CHECK_EQ(close(requests[1]), 0);
        while (read(requests[0], &c, 1) == 1) {
            c++;
            CHECK_EQ(write(answers[1], &c, 1), 1);
        }
        CHECK_EQ(write(answers[1], ".", 1), 1);
        _exit(0);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    CHECK_ERR(wait(NULL), ECHILD); // the grandchild is not ours
    CHECK_EQ(close(answers[1]), 0);
    printf("the daemon answers ");
    for (char q = 'a'; q <= 'e'; q++) {
        CHECK_EQ(write(requests[1], &q, 1), 1);
        CHECK_EQ(read(answers[0], &c, 1), 1);
        putchar(c);
    }
    CHECK_EQ(close(requests[1]), 0);
    CHECK_EQ(read(answers[0], &c, 1), 1);
    CHECK_EQ(c, '.');
    CHECK_EQ(read(answers[0], &c, 1), 0); // it has ended
    puts(" and ends");
    return exit_success();
}
