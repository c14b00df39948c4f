// exec_self: execve keeps the pid, open descriptors, working directory, umask, ignored signals, signal mask and pending
// signals, and drops close-on-exec descriptors, handlers, mappings and threads. The shim must come along, unseen.
#include "check.h"
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

static void on_signal(int signal) { (void)signal; }

static void *sit(void *arg) {
    for (;;) pause();
    return arg;
}

static int before(const char *self) {
    char pid[20], pipe_fd[20], event_fd[20], closed_fd[20];
    int fds[2], closed = eventfd(0, EFD_CLOEXEC), event = eventfd(41, 0);
    sigset_t usr1;
    umask(0027);
    CHECK_EQ(chdir("/"), 0);
    CHECK_EQ(pipe(fds), 0);
    CHECK_EQ(write(fds[1], "through", 7), 7);
    CHECK(signal(SIGHUP, SIG_IGN) != SIG_ERR && signal(SIGUSR2, on_signal) != SIG_ERR);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    CHECK_EQ(sigprocmask(SIG_BLOCK, &usr1, NULL), 0);
    CHECK_EQ(kill(getpid(), SIGUSR1), 0);
    spawn(sit, NULL);
    sprintf(pid, "%d", getpid());
    sprintf(pipe_fd, "%d", fds[0]);
    sprintf(event_fd, "%d", event);
    sprintf(closed_fd, "%d", closed);
    puts("before");
    CHECK_EQ(fflush(stdout), 0);
    CHECK_ERR(execl("/does/not/exist", "x", NULL), ENOENT);
    CHECK_ERR(execl("/dev/null", "x", NULL), EACCES);
    char *const argv[] = {"exec_self", "after", pid, pipe_fd, event_fd, closed_fd, NULL};
    char *const envp[] = {"ONLY=this", NULL};
    CHECK_EQ(execve(self, argv, envp), 0);
    return 1;
}

static int after(char **argv, char **envp) {
    char text[16] = {0}, cwd[PATH_MAX];
    sigset_t set;
    eventfd_t value;
    CHECK_EQ(getpid(), atoi(argv[2]));
    CHECK_EQ(gettid(), getpid());
    CHECK(strcmp(envp[0], "ONLY=this") == 0 && envp[1] == NULL);
    CHECK_EQ(read(atoi(argv[3]), text, 16), 7);
    CHECK_EQ(strcmp(text, "through"), 0);
    CHECK_EQ(eventfd_read(atoi(argv[4]), &value), 0);
    CHECK_EQ(value, 41);
    CHECK_ERR(fcntl(atoi(argv[5]), F_GETFD), EBADF);
    puts("pid, environment, descriptors");
    CHECK(signal(SIGHUP, SIG_DFL) == SIG_IGN && signal(SIGUSR2, SIG_DFL) == SIG_DFL);
    CHECK_EQ(sigprocmask(SIG_BLOCK, NULL, &set), 0);
    CHECK(sigismember(&set, SIGUSR1) && !sigismember(&set, SIGUSR2));
    CHECK_EQ(sigpending(&set), 0);
    CHECK(sigismember(&set, SIGUSR1));
    CHECK_EQ(umask(0), 0027);
    CHECK(getcwd(cwd, sizeof cwd) != NULL);
    CHECK_EQ(strcmp(cwd, "/"), 0);
    puts("signals, umask, directory");
    return exit_success();
}

int main(int argc, char **argv, char **envp) {
    return argc == 1 ? before("/proc/self/exe") : after(argv, envp);
}
