// tcp_nonblocking_accept: a non-blocking accept is EAGAIN with nobody there and after the last one; the accepted
// socket is blocking unless accept4 says otherwise, and is not close-on-exec unless it says so.
#include "net.h"

int main(int argc, char **argv) {
    int listener = tcp_listen(argc, argv, SOCK_NONBLOCK), clients = 0;
    struct pollfd p = {.fd = listener, .events = POLLIN};
    char line[100];
    CHECK_ERR(accept(listener, NULL, NULL), EAGAIN);
    CHECK_ERR(accept4(listener, NULL, NULL, 0x1), EINVAL);
    CHECK_EQ(poll(&p, 1, 0), 0);
    puts("nobody yet");
    for (bool quit = false; !quit;) {
        CHECK_EQ(poll(&p, 1, -1), 1);
        CHECK_EQ(p.revents, POLLIN);
        int flags[3] = {0, SOCK_NONBLOCK, SOCK_NONBLOCK | SOCK_CLOEXEC}, fd;
        while ((fd = accept4(listener, NULL, NULL, flags[clients % 3])) >= 0) {
            CHECK_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, clients % 3 == 0 ? 0 : O_NONBLOCK);
            CHECK_EQ(fcntl(fd, F_GETFD), clients % 3 == 2 ? FD_CLOEXEC : 0);
            clients++;
            CHECK_EQ(fcntl(fd, F_SETFL, 0), 0);
            reply(fd, "welcome");
            CHECK(read_line(fd, line, sizeof line));
            quit = strcmp(line, "quit") == 0;
            reply(fd, "%s", quit ? "bye" : line);
            CHECK_EQ(close(fd), 0);
        }
        CHECK_EQ(errno, EAGAIN);
    }
    printf("%d clients\n", clients);
    return exit_success();
}
