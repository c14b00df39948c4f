// poll_nval: closed descriptors are answered with POLLNVAL, at once and counted, negative ones are skipped; a bad array
// is EFAULT, too long a one EINVAL. Programs probe their standard descriptors this way.
#include "check.h"
#include <poll.h>
#include <sys/resource.h>

int main(void) {
    int fds[2];
    CHECK_EQ(pipe(fds), 0);
    struct pollfd p[3] = {{fds[0], POLLIN, 0}, {fds[1], 0, 0}, {-5, POLLIN, 77}};
    CHECK_EQ(close(fds[1]), 0);
    CHECK_EQ(poll(p, 3, -1), 2);
    CHECK(p[0].revents == POLLHUP && p[1].revents == POLLNVAL && p[2].revents == 0);
    CHECK_EQ(close(fds[0]), 0);
    CHECK_EQ(poll(p, 3, 60000), 2);
    CHECK(p[0].revents == POLLNVAL && p[1].revents == POLLNVAL);
    puts("closed: POLLNVAL at once");

    p[0].fd = 1000000;
    CHECK_EQ(poll(p, 1, -1), 1);
    CHECK_EQ(p[0].revents, POLLNVAL);
    CHECK_EQ(poll(&p[2], 1, 5), 0);
    puts("never opened: POLLNVAL; negative: skipped");

    struct rlimit limit;
    struct pollfd *volatile no_memory = (void *)8;
    CHECK_ERR(poll(no_memory, 1, 0), EFAULT);
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    CHECK_ERR(poll(no_memory, limit.rlim_cur + 1, 0), EINVAL);
    puts("EFAULT, EINVAL");
    return exit_success();
}
