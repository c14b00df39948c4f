// fork_stop_continue: SIGSTOP stops a child and SIGCONT lets it go on; the parent hears of both with WUNTRACED and
// WCONTINUED, and a handled SIGCONT runs its handler. Supervisors and upgrades of servers use it.
#include "check.h"
#include <signal.h>
#include <sys/wait.h>

static void exit_5(int signal) { (void)signal, _exit(5); }

int main(void) {
    int ready[2], status;
    char c;
    CHECK_EQ(pipe(ready), 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(signal(SIGTERM, exit_5) != SIG_ERR);
        CHECK_EQ(write(ready[1], "r", 1), 1);
        for (;;) pause();
    }
    CHECK_EQ(read(ready[0], &c, 1), 1);
    for (int round = 0; round < 3; round++) {
        CHECK_EQ(kill(child, SIGSTOP), 0);
        CHECK_EQ(waitpid(child, &status, WUNTRACED), child);
        CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
        CHECK_EQ(waitpid(child, &status, WUNTRACED | WNOHANG), 0); // told once
        CHECK_EQ(kill(child, SIGCONT), 0);
        CHECK_EQ(waitpid(child, &status, WCONTINUED), child);
        CHECK(WIFCONTINUED(status));
    }
    puts("stopped and continued three times");

    CHECK_EQ(kill(child, SIGSTOP), 0);
    CHECK_EQ(waitpid(child, &status, WUNTRACED), child);
    CHECK_EQ(kill(child, SIGTERM), 0); // stays pending
    sleep_ms(5);
    CHECK_EQ(waitpid(child, &status, WNOHANG), 0);
    CHECK_EQ(kill(child, SIGCONT), 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 5);
    puts("a signal sent meanwhile arrives afterwards");
    return exit_success();
}
