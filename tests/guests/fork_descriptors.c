// fork_descriptors: parent and child share open files (position, status flags) but not descriptor tables: closing or
// duplicating in one does nothing to the other, and end of file comes when both have closed.
#include "guest_dir.h"
#include <sys/socket.h>
#include <sys/wait.h>

int main(void) {
    char buffer[16];
    int status, fds[2], pair[2];
    guest_dir_enter();
    int fd = open_new("file");
    CHECK_EQ(write(fd, "0123456789", 10), 10);
    CHECK_EQ(lseek(fd, 2, SEEK_SET), 2);
    CHECK_EQ(pipe(fds), 0);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);

    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK_EQ(close(pair[0]), 0);
        CHECK_EQ(read(fd, buffer, 3), 3);
        CHECK_EQ(memcmp(buffer, "234", 3), 0);
        CHECK_EQ(fcntl(fd, F_SETFL, O_APPEND), 0);
        CHECK_EQ(fcntl(fd, F_SETFD, FD_CLOEXEC), 0);
        CHECK_EQ(dup2(fd, 500), 500);
        CHECK_EQ(close(fds[0]), 0);
        CHECK_EQ(write(pair[1], "changed", 7), 7);
        CHECK_EQ(read(pair[1], buffer, 16), 4); // the parent's answer
        CHECK_EQ(memcmp(buffer, "seen", 4), 0);
        CHECK_EQ(write(fds[1], "from the child", 14), 14);
        CHECK_EQ(read(pair[1], buffer, 16), 0); // the parent closed its end
        _exit(0);
    }
    CHECK_EQ(close(pair[1]), 0);
    CHECK_EQ(read(pair[0], buffer, 16), 7);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 5);
    CHECK_EQ(fcntl(fd, F_GETFL) & O_APPEND, O_APPEND);
    CHECK_EQ(fcntl(fd, F_GETFD), 0);
    CHECK_ERR(fcntl(500, F_GETFD), EBADF);
    CHECK(fcntl(fds[0], F_GETFD) != -1);
    puts("shared: position and status flags; own: the table");

    CHECK_EQ(write(pair[0], "seen", 4), 4);
    CHECK_EQ(read(fds[0], buffer, 16), 14);
    CHECK_EQ(close(fds[1]), 0); // the child still has one open
    CHECK_EQ(close(pair[0]), 0);
    CHECK_EQ(read(fds[0], buffer, 16), 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    puts("end of file when both have closed");
    return exit_success();
}
