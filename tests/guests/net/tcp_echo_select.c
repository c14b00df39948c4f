// tcp_echo_select: the oldest event loop: select with sets copied anew for each call.
#include "net.h"
#include <sys/select.h>

int main(int argc, char **argv) {
    int listener = tcp_listen(argc, argv, 0), highest = listener, clients = 0;
    static struct reader *readers[FD_SETSIZE];
    fd_set all, ready;
    long lines = 0;
    bool quit = false;
    FD_ZERO(&all);
    FD_SET(listener, &all);
    while (!quit) {
        ready = all;
        int n = select(highest + 1, &ready, NULL, NULL, NULL);
        CHECK(n > 0);
        for (int fd = 0; fd <= highest; fd++) {
            if (!FD_ISSET(fd, &ready)) continue;
            n--;
            if (fd == listener) {
                int client = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
                CHECK(client >= 0 && client < FD_SETSIZE);
                readers[client] = reader_new(client);
                FD_SET(client, &all);
                if (client > highest) highest = client;
                clients++;
                continue;
            }
            quit |= echo_lines(readers[fd], &lines);
            if (!readers[fd]->eof) continue;
            CHECK_EQ(close(fd), 0);
            free(readers[fd]);
            FD_CLR(fd, &all);
        }
        CHECK_EQ(n, 0);
    }
    printf("%d clients, %ld lines\n", clients, lines);
    return exit_success();
}
