// raw_old_calls: the calls that new C libraries no longer make still work by number: open, creat, pipe, dup2, poll,
// select, access, stat, epoll_create, epoll_wait, eventfd, signalfd, getdents, time, fork ... Go, musl and old static
// programs make them: each needs its row.
#include "guest_dir.h"
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

int main(void) {
    struct stat st;
    char buffer[4096];
    int fds[2], status;
    guest_dir_enter();
    long fd = syscall(SYS_open, "file", O_RDWR | O_CREAT, 0644);
    CHECK(fd >= 0);
    CHECK_EQ(write((int)fd, "abc", 3), 3);
    CHECK(syscall(SYS_creat, "created", 0600) > fd);
    CHECK_EQ(syscall(SYS_access, "created", W_OK), 0);
    CHECK_EQ(syscall(SYS_stat, "file", &st), 0);
    CHECK_EQ(st.st_size, 3);
    CHECK_EQ(syscall(SYS_symlink, "file", "link"), 0);
    CHECK_EQ(syscall(SYS_lstat, "link", &st), 0);
    CHECK(S_ISLNK(st.st_mode));
    CHECK_EQ(syscall(SYS_readlink, "link", buffer, sizeof buffer), 4);
    CHECK_EQ(syscall(SYS_link, "file", "hard"), 0);
    CHECK_EQ(syscall(SYS_fstat, fd, &st), 0);
    CHECK_EQ(st.st_nlink, 2);
    CHECK_EQ(syscall(SYS_chmod, "file", 0600), 0);
    CHECK_EQ(syscall(SYS_mkdir, "dir", 0755), 0);
    CHECK_EQ(syscall(SYS_rename, "hard", "dir/hard"), 0);
    CHECK_EQ(syscall(SYS_unlink, "dir/hard"), 0);
    CHECK_EQ(syscall(SYS_rmdir, "dir"), 0);
    long directory = syscall(SYS_open, ".", O_RDONLY | O_DIRECTORY);
    CHECK(syscall(SYS_getdents, directory, buffer, sizeof buffer) > 5 * 20); // ., .., file, created, link
    puts("files");

    CHECK_EQ(syscall(SYS_pipe, fds), 0);
    CHECK_EQ(write(fds[1], "x", 1), 1);
    struct pollfd p = {.fd = fds[0], .events = POLLIN};
    CHECK_EQ(syscall(SYS_poll, &p, 1, 1000), 1);
    fd_set set;
    struct timeval timeout = {.tv_sec = 10};
    FD_ZERO(&set);
    FD_SET(fds[0], &set);
    CHECK_EQ(syscall(SYS_select, fds[0] + 1, &set, NULL, NULL, &timeout), 1);
    struct epoll_event event = {.events = EPOLLIN};
    long epoll = syscall(SYS_epoll_create, 1);
    CHECK_EQ(epoll_ctl((int)epoll, EPOLL_CTL_ADD, fds[0], &event), 0);
    CHECK_EQ(syscall(SYS_epoll_wait, epoll, &event, 1, 1000), 1);
    long count = 0, event_fd = syscall(SYS_eventfd, 9), signals = 1 << (SIGUSR1 - 1);
    CHECK_EQ(read((int)event_fd, &count, 8), 8);
    CHECK_EQ(count, 9);
    CHECK(syscall(SYS_signalfd, -1, &signals, 8) >= 0);
    CHECK_EQ(syscall(SYS_dup2, fds[0], 300), 300);
    puts("pipes, poll, select, epoll, eventfd, signalfd, dup2");

    struct timeval day;
    struct timespec ms = {.tv_nsec = 1000000};
    int64_t before = now_ns(CLOCK_REALTIME_COARSE) / NS_PER_S;
    long seconds = syscall(SYS_time, NULL);
    CHECK_EQ(syscall(SYS_gettimeofday, &day, NULL), 0);
    CHECK(before <= seconds && seconds <= day.tv_sec);
    CHECK_EQ(syscall(SYS_nanosleep, &ms, NULL), 0);
    long child = syscall(SYS_fork);
    CHECK(child >= 0);
    if (child == 0) _exit(syscall(SYS_getppid) > 0 ? 5 : 6);
    CHECK_EQ(waitpid((pid_t)child, &status, 0), child);
    CHECK_EQ(WEXITSTATUS(status), 5);
    CHECK_ERR(syscall(5000), ENOSYS); // and a number that nobody has
    puts("time, sleep, fork; an unknown number is ENOSYS");
    return exit_success();
}
