// poll_basic: poll counts ready entries and sets exactly the asked-for bits plus POLLHUP and POLLERR; an event in
// another thread wakes it; entries may repeat, and regular files are always ready.
#include "guest_dir.h"
#include <poll.h>
#include <sys/socket.h>

static void *write_later(void *fd) {
    sleep_ms(10);
    CHECK_EQ(write(*(int *)fd, "x", 1), 1);
    return NULL;
}

int main(void) {
    int fds[2], pipe_fds[2];
    char buffer[8];
    guest_dir_enter();
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    CHECK_EQ(pipe(pipe_fds), 0);
    struct pollfd p[4] = {
        {fds[0], POLLIN, 99}, {fds[1], POLLIN | POLLOUT, 99}, {pipe_fds[0], POLLIN, 99}, {-1, POLLIN, 99}};

    CHECK_EQ(poll(p, 4, 0), 1);
    CHECK(p[0].revents == 0 && p[1].revents == POLLOUT && p[2].revents == 0 && p[3].revents == 0);
    CHECK_EQ(write(fds[1], "ab", 2), 2);
    CHECK_EQ(write(pipe_fds[1], "c", 1), 1);
    CHECK_EQ(poll(p, 4, -1), 3);
    CHECK(p[0].revents == POLLIN && p[1].revents == POLLOUT && p[2].revents == POLLIN);
    CHECK_EQ(poll(p, 1, -1), 1);
    CHECK_EQ(read(fds[0], buffer, 8), 2);
    CHECK_EQ(read(pipe_fds[0], buffer, 8), 1);
    CHECK_EQ(poll(p, 1, 0), 0);
    puts("counts and bits");

    pthread_t thread = spawn(write_later, &fds[1]);
    CHECK_EQ(poll(p, 1, 60000), 1);
    CHECK_EQ(p[0].revents, POLLIN);
    join(thread);
    CHECK_EQ(read(fds[0], buffer, 8), 1);
    puts("woken by another thread's write");

    struct pollfd same[3] = {{fds[1], POLLOUT}, {fds[1], POLLIN}, {fds[1], POLLOUT}};
    CHECK_EQ(poll(same, 3, 0), 2);
    CHECK(same[0].revents == POLLOUT && same[1].revents == 0 && same[2].revents == POLLOUT);

    struct pollfd hup = {fds[0], POLLIN | POLLRDHUP}, quiet = {pipe_fds[0], 0}, error = {pipe_fds[1], POLLOUT};
    CHECK_EQ(shutdown(fds[1], SHUT_WR), 0);
    CHECK_EQ(poll(&hup, 1, -1), 1);
    CHECK_EQ(hup.revents, POLLIN | POLLRDHUP);
    CHECK_EQ(close(fds[1]), 0);
    CHECK_EQ(poll(&hup, 1, -1), 1);
    CHECK_EQ(hup.revents, POLLIN | POLLRDHUP | POLLHUP);
    CHECK_EQ(close(pipe_fds[1]), 0);
    CHECK_EQ(poll(&quiet, 1, -1), 1);
    CHECK_EQ(quiet.revents, POLLHUP);
    CHECK_EQ(pipe(pipe_fds), 0);
    CHECK_EQ(close(pipe_fds[0]), 0);
    error.fd = pipe_fds[1];
    CHECK_EQ(poll(&error, 1, -1), 1);
    CHECK_EQ(error.revents, POLLOUT | POLLERR);
    puts("hang-ups and errors need no asking");

    struct pollfd file = {open_new("file"), POLLIN | POLLOUT};
    CHECK_EQ(poll(&file, 1, -1), 1);
    CHECK_EQ(file.revents, POLLIN | POLLOUT);
    puts("a regular file is always ready");
    return exit_success();
}
