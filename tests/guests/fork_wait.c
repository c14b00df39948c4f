// fork_wait: a child's exit status reaches its parent once, through wait4, waitpid or waitid; WNOHANG says "not yet";
// WNOWAIT looks only; afterwards there is ECHILD. The pids fork returned are the ones that wait gives back.
#include "check.h"
#include <sys/resource.h>
#include <sys/wait.h>

// A child that ends with `status` when `gate`'s writers are all gone.
static pid_t child_behind(int gate[2], int status) {
    pid_t parent = getpid(), pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        char c;
        CHECK(getpid() != parent && getppid() == parent && gettid() == getpid());
        CHECK_EQ(close(gate[1]), 0);
        CHECK_EQ(read(gate[0], &c, 1), 0);
        _exit(status);
    }
    return pid;
}

int main(void) {
    int gate[2], status;
    struct rusage usage;
    siginfo_t info;
    CHECK_ERR(wait(NULL), ECHILD);
    CHECK_EQ(pipe(gate), 0);
    pid_t child = child_behind(gate, 7);
    CHECK_EQ(waitpid(child, &status, WNOHANG), 0);
    CHECK_EQ(waitpid(-1, &status, WNOHANG), 0);
    CHECK_EQ(close(gate[1]), 0);
    CHECK_EQ(wait4(child, &status, 0, &usage), child);
    CHECK(WIFEXITED(status) && !WIFSIGNALED(status));
    printf("exit status %d\n", WEXITSTATUS(status));
    CHECK_ERR(waitpid(child, &status, 0), ECHILD);
    CHECK_ERR(waitpid(-1, &status, WNOHANG), ECHILD);
    CHECK_ERR(kill(child, 0), ESRCH);
    CHECK_EQ(close(gate[0]), 0);

    CHECK_EQ(pipe(gate), 0);
    pid_t first = child_behind(gate, 1), second = child_behind(gate, 2);
    CHECK(first != second);
    CHECK_EQ(close(gate[1]), 0);
    CHECK_EQ(waitpid(second, &status, 0), second); // the one named, whoever ends first
    CHECK_EQ(WEXITSTATUS(status), 2);
    CHECK_EQ(waitid(P_PID, (id_t)first, &info, WEXITED | WNOWAIT), 0);
    CHECK(info.si_pid == first && info.si_code == CLD_EXITED && info.si_status == 1);
    CHECK_EQ(kill(first, 0), 0); // a zombie still has its number
    CHECK_EQ(wait(&status), first);
    CHECK_EQ(WEXITSTATUS(status), 1);
    CHECK_ERR(waitid(P_ALL, 0, &info, WEXITED), ECHILD);
    puts("named one, looked at, taken");

    child = fork();
    if (child == 0) _exit(256 + 4); // eight bits count
    CHECK_EQ(waitpid(0, &status, 0), child);
    printf("exit status %d\n", WEXITSTATUS(status));
    CHECK_ERR(waitpid(-1, &status, 0x100), EINVAL);
    return exit_success();
}
