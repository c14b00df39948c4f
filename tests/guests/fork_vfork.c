// fork_vfork: a vfork child runs on its parent's memory while the parent stands still, until it exits or execs; a
// failed exec is thus seen by the parent. posix_spawn reports its errors this way: vfork run as fork breaks them.
#include "check.h"
#include <spawn.h>
#include <sys/wait.h>

extern char **environ;

int main(void) {
    int status;
    volatile int shared = 0;
    for (int i = 1; i <= 5; i++) {
        pid_t child = vfork();
        CHECK(child >= 0);
        if (child == 0) {
            shared += i;
            _exit(i);
        }
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(WEXITSTATUS(status), i);
    }
    printf("children added up to %d in the parent's memory\n", shared);

    volatile int exec_errno = 0;
    pid_t child = vfork();
    if (child == 0) {
        execl("/does/not/exist", "x", NULL);
        exec_errno = errno;
        _exit(127);
    }
    CHECK_EQ(exec_errno, ENOENT);
    CHECK_EQ(waitpid(child, &status, 0), child);
    puts("a failed exec shows in the parent");

    char *argv[] = {"true", NULL}, *no_argv[] = {"none", NULL};
    CHECK_EQ(posix_spawn(&child, "/bin/true", NULL, NULL, argv, environ), 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    CHECK_EQ(posix_spawn(&child, "/does/not/exist", NULL, NULL, no_argv, environ), ENOENT);
    CHECK_EQ(posix_spawn(&child, "/dev/null", NULL, NULL, no_argv, environ), EACCES);
    CHECK_ERR(waitpid(-1, &status, WNOHANG), ECHILD); // no half-born child is left
    puts("posix_spawn: success, ENOENT, EACCES");
    return exit_success();
}
