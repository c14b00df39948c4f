// sendfile_file_to_socketpair: sendfile pushes a whole file through a stream socket, waiting when it is full, while the
// reader takes it in odd pieces. Web servers send their files this way.
#include "guest_dir.h"
#include <sys/sendfile.h>
#include <sys/socket.h>

enum { SIZE = 2000000 };
static char content[SIZE];
static int fds[2], fd;

static void *send_all(void *arg) {
    off_t offset = 0;
    while (offset < SIZE) CHECK(sendfile(fds[1], fd, &offset, (size_t)(SIZE - offset)) > 0);
    CHECK_EQ(offset, SIZE);
    CHECK_EQ(shutdown(fds[1], SHUT_WR), 0);
    return arg;
}

int main(void) {
    static char got[SIZE];
    guest_dir_enter();
    fd = open_new("file");
    for (int i = 0; i < SIZE; i++) content[i] = (char)(i * 5 + i / 777);
    CHECK_EQ(write(fd, content, SIZE), SIZE);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);

    pthread_t thread = spawn(send_all, NULL);
    ssize_t n, total = 0;
    while (total < SIZE) {
        ssize_t piece = 1 + total * 7919 % 50000;
        if (piece > SIZE - total) piece = SIZE - total;
        CHECK((n = read(fds[0], got + total, (size_t)piece)) > 0);
        CHECK(n <= piece);
        total += n;
    }
    CHECK_EQ(memcmp(got, content, SIZE), 0);
    CHECK_EQ(read(fds[0], got, 1), 0);
    join(thread);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), SIZE); // where write left it: sendfile used its own offset
    printf("%d bytes\n", SIZE);
    return exit_success();
}
