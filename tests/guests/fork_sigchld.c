// fork_sigchld: a child's end sends SIGCHLD with its pid and status; several ends may merge into one signal, so the
// handler must reap in a loop; with SIGCHLD ignored children vanish by themselves.
#include "check.h"
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

enum { CHILDREN = 5 };
static volatile int runs, reaped, sum, last_pid, last_code, last_status;

static void on_child(int signal, siginfo_t *info, void *context) {
    int status, saved = errno;
    (void)signal, (void)context;
    runs++;
    last_pid = info->si_pid, last_code = info->si_code, last_status = info->si_status;
    while (waitpid(-1, &status, WNOHANG) > 0) {
        reaped++;
        sum += WEXITSTATUS(status);
    }
    errno = saved;
}

static pid_t child_with(int status) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) _exit(status);
    return child;
}

int main(void) {
    struct sigaction action = {.sa_sigaction = on_child, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigset_t sigchld, old;
    sigemptyset(&sigchld);
    sigaddset(&sigchld, SIGCHLD);
    CHECK_EQ(sigaction(SIGCHLD, &action, NULL), 0);
    CHECK_EQ(sigprocmask(SIG_BLOCK, &sigchld, &old), 0);

    pid_t child = child_with(9);
    while (runs == 0) sigsuspend(&old);
    CHECK(last_pid == child && last_code == CLD_EXITED && last_status == 9 && reaped == 1);
    puts("one child: its pid, CLD_EXITED, 9");

    for (int i = 1; i <= CHILDREN; i++) child_with(i);
    while (reaped < 1 + CHILDREN) sigsuspend(&old);
    CHECK(runs >= 2 && runs <= 1 + CHILDREN);
    printf("%d children reaped, statuses add up to %d\n", CHILDREN, sum - 9);

    siginfo_t info;
    struct signalfd_siginfo record;
    int status, fd = signalfd(-1, &sigchld, 0);
    struct timespec none = {0};
    while (sigtimedwait(&sigchld, &info, &none) > 0) {} // one may be left over
    child = child_with(4);
    CHECK_EQ(read(fd, &record, sizeof record), sizeof record);
    CHECK(record.ssi_signo == SIGCHLD && (pid_t)record.ssi_pid == child && record.ssi_status == 4);
    CHECK_EQ(waitpid(child, &status, 0), child);
    puts("through a signalfd too");

    CHECK_EQ(sigprocmask(SIG_SETMASK, &old, NULL), 0);
    CHECK(signal(SIGCHLD, SIG_IGN) != SIG_ERR);
    child_with(1);
    child_with(2);
    CHECK_ERR(wait(&status), ECHILD); // waits for both, gets neither
    puts("ignored: nothing to reap");
    return exit_success();
}
