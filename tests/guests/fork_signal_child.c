// fork_signal_child: a parent ends its child by a signal (WIFSIGNALED), has it run its handler and exit 3, has it
// ignore one signal and die of SIGKILL; a child that dies of its own abort says so too.
#include "check.h"
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

static void exit_3(int signal) { (void)signal, _exit(3); }

// A child with this disposition of SIGTERM, which has begun to wait for signals when this returns.
static pid_t waiting_child(void (*disposition)(int)) {
    int ready[2];
    char c;
    CHECK_EQ(pipe(ready), 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(signal(SIGTERM, disposition) != SIG_ERR);
        CHECK_EQ(write(ready[1], "r", 1), 1);
        for (;;) pause();
    }
    CHECK_EQ(read(ready[0], &c, 1), 1);
    CHECK(close(ready[0]) == 0 && close(ready[1]) == 0);
    return child;
}

int main(void) {
    int status;
    struct rlimit no_core = {0, 0};
    CHECK_EQ(setrlimit(RLIMIT_CORE, &no_core), 0);

    pid_t child = waiting_child(SIG_DFL);
    CHECK_EQ(kill(child, SIGTERM), 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFSIGNALED(status) && !WIFEXITED(status) && WTERMSIG(status) == SIGTERM);
    puts("default: ended by SIGTERM");

    child = waiting_child(exit_3);
    CHECK_EQ(kill(child, SIGTERM), 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
    puts("handler: exit 3");

    child = waiting_child(SIG_IGN);
    CHECK_EQ(kill(child, SIGTERM), 0);
    sleep_ms(5);
    CHECK_EQ(waitpid(child, &status, WNOHANG), 0);
    CHECK_EQ(kill(child, SIGKILL), 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    puts("ignored; ended by SIGKILL");

    CHECK_EQ(fflush(stdout), 0);
    child = fork();
    if (child == 0) abort();
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    child = fork();
    if (child == 0) *(volatile int *)8 = 1;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    puts("abort and a wild store: SIGABRT, SIGSEGV");
    return exit_success();
}
