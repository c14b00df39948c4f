// fork_pipe_both: parent and child both keep both ends of their pipes and socket pairs, and it is the one that reads who
// gets what is written: child to parent, parent to child, parent to itself. Programs forget to close what they don't use.
#include "check.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>

static void expect(int fd, const char *text) {
    char got[64] = "";
    for (size_t n = 0; n < strlen(text);) {
        ssize_t r = read(fd, got + n, strlen(text) - n);
        CHECK(r > 0);
        n += r;
    }
    CHECK_EQ(strcmp(got, text), 0);
}

static void say(int fd, const char *text) { CHECK_EQ(write(fd, text, strlen(text)), (ssize_t)strlen(text)); }

static void reap(pid_t child) {
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
}

int main(void) {
    int up[2], down[2], self[2], pair[2];
    CHECK(pipe(up) == 0 && pipe(down) == 0 && pipe(self) == 0);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    say(self[1], "before");
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        say(up[1], "hello");
        expect(down[0], "question");
        say(up[1], "answer");
        expect(pair[1], "by socket");
        say(pair[1], "and back");
        _exit(0);
    }
    expect(up[0], "hello");
    say(down[1], "question");
    expect(up[0], "answer");
    puts("pipes, both ends open in both");
    say(pair[0], "by socket");
    expect(pair[0], "and back");
    puts("a socket pair, the same");
    say(self[1], " and after");
    expect(self[0], "before and after");
    puts("a pipe to oneself");
    reap(child);

    // What a child wrote is there when it has ended, and is seen by polling.
    CHECK_EQ((child = fork()) < 0, 0);
    if (child == 0) {
        say(up[1], "last words");
        _exit(0);
    }
    struct pollfd p = {.fd = up[0], .events = POLLIN};
    CHECK_EQ(poll(&p, 1, 5000), 1);
    expect(up[0], "last words");
    reap(child);
    puts("poll");

    CHECK_EQ((child = fork()) < 0, 0);
    if (child == 0) {
        for (int i = 0; i < 100; i++) say(up[1], "0123456789");
        expect(down[0], "go");
        CHECK_EQ(close(up[1]), 0);
        CHECK_EQ(close(down[1]), 0);
        CHECK_EQ(read(down[0], &p, 1), 0);
        _exit(0);
    }
    int ep = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN};
    CHECK_EQ(epoll_ctl(ep, EPOLL_CTL_ADD, up[0], &e), 0);
    for (int i = 0; i < 100; i++) {
        CHECK_EQ(epoll_wait(ep, &e, 1, 5000), 1);
        expect(up[0], "0123456789");
    }
    CHECK_EQ(close(up[1]), 0);
    say(down[1], "go");
    CHECK_EQ(epoll_wait(ep, &e, 1, 5000), 1);
    CHECK_EQ(read(up[0], &p, 1), 0);
    CHECK_EQ(close(down[1]), 0);
    reap(child);
    puts("epoll, and the end when all have closed");
    return exit_success();
}
