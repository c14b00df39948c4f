// select_basic: select leaves exactly the ready descriptors in its three sets and returns their number over all; end
// of file reads as ready; a closed descriptor is EBADF.
#include "check.h"
#include <sys/select.h>
#include <sys/socket.h>

static void *write_later(void *fd) {
    sleep_ms(10);
    CHECK_EQ(write(*(int *)fd, "x", 1), 1);
    return NULL;
}

static fd_set set_of(int a, int b) {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(a, &set);
    FD_SET(b, &set);
    return set;
}

int main(void) {
    int a[2], b[2];
    char c;
    struct timeval zero = {0};
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, a), 0);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, b), 0);
    int count = b[1] + 1;

    fd_set in = set_of(a[0], b[0]), out = set_of(a[0], b[0]), except = set_of(a[0], b[0]);
    CHECK_EQ(select(count, &in, &out, &except, NULL), 2);
    CHECK(!FD_ISSET(a[0], &in) && !FD_ISSET(b[0], &in) && FD_ISSET(a[0], &out) && FD_ISSET(b[0], &out));
    CHECK(!FD_ISSET(a[0], &except) && !FD_ISSET(b[0], &except));
    CHECK_EQ(write(b[1], "x", 1), 1);
    in = set_of(a[0], b[0]), out = set_of(a[0], a[1]);
    CHECK_EQ(select(count, &in, &out, NULL, NULL), 3);
    CHECK(!FD_ISSET(a[0], &in) && FD_ISSET(b[0], &in) && FD_ISSET(a[0], &out) && FD_ISSET(a[1], &out));
    CHECK_EQ(read(b[0], &c, 1), 1);
    puts("three sets, one count");

    in = set_of(a[0], b[0]);
    pthread_t thread = spawn(write_later, &a[1]);
    CHECK_EQ(select(count, &in, NULL, NULL, NULL), 1);
    CHECK(FD_ISSET(a[0], &in) && !FD_ISSET(b[0], &in));
    join(thread);
    CHECK_EQ(read(a[0], &c, 1), 1);
    puts("woken by another thread's write");

    in = set_of(a[0], b[0]);
    CHECK_EQ(select(a[0], &in, NULL, NULL, &zero), 0); // looks only below its first argument
    CHECK_EQ(close(b[1]), 0);
    in = set_of(a[0], b[0]);
    CHECK_EQ(select(count, &in, NULL, NULL, NULL), 1);
    CHECK(FD_ISSET(b[0], &in));
    CHECK_EQ(read(b[0], &c, 1), 0);
    in = set_of(a[0], b[1]);
    CHECK_ERR(select(count, &in, NULL, NULL, NULL), EBADF);
    volatile int minus_one = -1;
    CHECK_ERR(select(minus_one, NULL, NULL, NULL, NULL), EINVAL);
    puts("end of file is ready, closed is EBADF");
    return exit_success();
}
