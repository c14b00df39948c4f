// unix_listen: a listening Unix socket with a path or an abstract name: connect, accept, names, peer credentials, the
// file in the directory, and what happens without a listener. Local admin sockets of servers (redis, haproxy, PHP).
#include "guest_dir.h"
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

static struct sockaddr_un address;
static socklen_t length;

static void *be_client(void *arg) {
    char answer[16];
    struct sockaddr_un peer;
    socklen_t peer_length = sizeof peer;
    for (int i = 0; i < 5; i++) {
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        CHECK_EQ(connect(fd, (struct sockaddr *)&address, length), 0);
        CHECK_EQ(getpeername(fd, (struct sockaddr *)&peer, &peer_length), 0);
        CHECK_EQ(memcmp(&peer, &address, length), 0);
        CHECK_EQ(write(fd, "ping", 4), 4);
        CHECK_EQ(read(fd, answer, 16), 4);
        CHECK_EQ(memcmp(answer, "pong", 4), 0);
        CHECK_EQ(close(fd), 0);
    }
    return arg;
}

static void serve(void) {
    struct sockaddr_un name;
    struct ucred credentials;
    char request[16];
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_EQ(bind(listener, (struct sockaddr *)&address, length), 0);
    int early = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_ERR(connect(early, (struct sockaddr *)&address, length), ECONNREFUSED); // bound, not listening
    CHECK_EQ(listen(listener, 5), 0);
    pthread_t client = spawn(be_client, NULL);
    for (int i = 0; i < 5; i++) {
        socklen_t name_length = sizeof name, credentials_length = sizeof credentials;
        int fd = accept(listener, (struct sockaddr *)&name, &name_length);
        CHECK(fd >= 0);
        CHECK(name.sun_family == AF_UNIX && name_length == sizeof(sa_family_t)); // clients have no name
        CHECK_EQ(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &credentials_length), 0);
        CHECK(credentials.pid == getpid() && credentials.uid == geteuid());
        CHECK_EQ(read(fd, request, 16), 4);
        CHECK_EQ(memcmp(request, "ping", 4), 0);
        CHECK_EQ(write(fd, "pong", 4), 4);
        CHECK_EQ(read(fd, request, 16), 0);
        CHECK_EQ(close(fd), 0);
    }
    join(client);
    CHECK_ERR(bind(early, (struct sockaddr *)&address, length), EADDRINUSE);
    CHECK_EQ(close(listener), 0);
    CHECK_ERR(connect(early, (struct sockaddr *)&address, length), ECONNREFUSED);
    CHECK_EQ(close(early), 0);
}

int main(void) {
    struct stat st;
    guest_dir_enter();
    address = (struct sockaddr_un){.sun_family = AF_UNIX, .sun_path = "socket"};
    length = offsetof(struct sockaddr_un, sun_path) + sizeof "socket";
    serve();
    CHECK_EQ(stat("socket", &st), 0); // the file outlives the listener
    CHECK(S_ISSOCK(st.st_mode));
    CHECK_ERR(open("socket", O_RDWR), ENXIO);
    CHECK_EQ(unlink("socket"), 0);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_ERR(connect(fd, (struct sockaddr *)&address, length), ENOENT);
    puts("with a path: five clients");

    address = (struct sockaddr_un){.sun_family = AF_UNIX};
    int size = snprintf(address.sun_path + 1, 60, "ft-guest-unix-listen-%d", getpid());
    length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)size);
    CHECK_ERR(connect(fd, (struct sockaddr *)&address, length), ECONNREFUSED);
    serve();
    puts("with an abstract name: five clients");
    return exit_success();
}
