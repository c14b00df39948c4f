// fds_lowest: every call that makes a descriptor takes the lowest free number, whatever the kind: files, sockets,
// pipes, epolls, eventfds, timerfds, signalfds, memfds, duplicates. Old servers close(0) and count on it; a shim whose
// own descriptors show up here would shift every number that a guest logs or passes on.
#include "check.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

static sigset_t no_signals;

static int make(int kind) {
    switch (kind) {
    case 0: return open("/dev/null", O_RDONLY);
    case 1: return socket(AF_INET, SOCK_STREAM, 0);
    case 2: return epoll_create1(0);
    case 3: return eventfd(0, 0);
    case 4: return timerfd_create(CLOCK_MONOTONIC, 0);
    case 5: return signalfd(-1, &no_signals, 0);
    case 6: return memfd_create("m", 0);
    case 7: return dup(1);
    case 8: return fcntl(1, F_DUPFD, 0);
    case 9: return socket(AF_UNIX, SOCK_DGRAM, 0);
    case 10: return socket(AF_INET6, SOCK_DGRAM, 0);
    case 11: return open("/", O_RDONLY | O_DIRECTORY);
    default: return -1;
    }
}

enum { KINDS = 12 };

int main(void) {
    int two[2], base = 0;
    while (base < 40) CHECK((base = open("/dev/null", O_RDONLY)) > 2); // fills holes left by whoever started us
    for (int kind = 0; kind < KINDS; kind++) CHECK_EQ(make(kind), base + 1 + kind);
    puts("twelve kinds, twelve numbers in a row");

    for (int kind = 0; kind < KINDS; kind++) {
        int hole = base + 1 + (kind * 5 + 3) % KINDS; // whatever was there
        CHECK_EQ(close(hole), 0);
        CHECK_EQ(make(kind), hole);
    }
    puts("each kind takes the hole of another");

    CHECK_EQ(close(base + 7), 0);
    CHECK_EQ(close(base + 2), 0);
    CHECK_EQ(pipe(two), 0);
    CHECK(two[0] == base + 2 && two[1] == base + 7);
    CHECK_EQ(close(base + 4), 0);
    CHECK_EQ(close(base + 9), 0);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, two), 0);
    CHECK(two[0] == base + 4 && two[1] == base + 9);
    puts("pairs take the two lowest");

    CHECK_EQ(fcntl(1, F_DUPFD, base + 3), base + KINDS + 1);
    CHECK_EQ(fcntl(1, F_DUPFD, base + 500), base + 500);
    CHECK_EQ(dup2(1, base + 600), base + 600);
    CHECK_EQ(make(3), base + KINDS + 2);
    CHECK_ERR(open("/does/not/exist", O_RDONLY), ENOENT);
    CHECK_EQ(make(0), base + KINDS + 3); // a failed open takes none
    CHECK_EQ(close(0), 0);
    CHECK_EQ(make(0), 0);
    puts("and high ones leave the low ones alone");
    return exit_success();
}
