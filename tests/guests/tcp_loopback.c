// tcp_loopback: a program that is its own TCP client over 127.0.0.1, listener, client and server ends in one process,
// on a port the kernel picks. Health checks and embedded clients; nothing of it crosses the machine's border.
#include "check.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

enum { TOTAL = 1 << 20 };
static struct sockaddr_in address = {.sin_family = AF_INET};

static unsigned char pattern(int i) { return (unsigned char)(i * 17 + i / 300); }

static void *be_client(void *arg) {
    static unsigned char buffer[8192];
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_EQ(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    for (int done = 0; done < TOTAL; done += (int)sizeof buffer) {
        for (int i = 0; i < (int)sizeof buffer; i++) buffer[i] = pattern(done + i);
        CHECK_EQ(send(fd, buffer, sizeof buffer, MSG_NOSIGNAL), sizeof buffer);
    }
    CHECK_EQ(shutdown(fd, SHUT_WR), 0);
    CHECK_EQ(recv(fd, buffer, 2, MSG_WAITALL), 2);
    CHECK_EQ(memcmp(buffer, "ok", 2), 0);
    CHECK_EQ(recv(fd, buffer, 1, 0), 0);
    CHECK_EQ(close(fd), 0);
    return arg;
}

int main(void) {
    static unsigned char buffer[10007];
    struct sockaddr_in peer;
    socklen_t length = sizeof address;
    int total = 0, listener = socket(AF_INET, SOCK_STREAM, 0);
    ssize_t n;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK_EQ(bind(listener, (struct sockaddr *)&address, sizeof address), 0);
    CHECK_EQ(listen(listener, 5), 0);
    CHECK_EQ(getsockname(listener, (struct sockaddr *)&address, &length), 0);
    CHECK(address.sin_port != 0);

    pthread_t client = spawn(be_client, NULL);
    int fd = accept(listener, (struct sockaddr *)&peer, &length);
    CHECK(fd >= 0);
    CHECK_EQ(ntohl(peer.sin_addr.s_addr), INADDR_LOOPBACK);
    while ((n = recv(fd, buffer, sizeof buffer, 0)) > 0)
        for (ssize_t i = 0; i < n; i++, total++) CHECK_EQ(buffer[i], pattern(total));
    CHECK(n == 0 && total == TOTAL);
    CHECK_EQ(send(fd, "ok", 2, 0), 2);
    CHECK_EQ(close(fd), 0);
    join(client);
    printf("%d bytes to myself\n", total);

    fd = socket(AF_INET, SOCK_STREAM, 0);
    peer = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = address.sin_addr};
    CHECK_EQ(bind(fd, (struct sockaddr *)&peer, sizeof peer), 0); // another port, or it might connect to itself
    CHECK_EQ(close(listener), 0);
    CHECK_ERR(connect(fd, (struct sockaddr *)&address, sizeof address), ECONNREFUSED);
    puts("refused once the listener is closed");
    return exit_success();
}
