// pipe2_cloexec: pipe2 sets O_CLOEXEC and O_NONBLOCK on both ends at once and on no more; close-on-exec belongs to the
// descriptor, O_NONBLOCK to the open pipe end that duplicates share; unknown flags are refused.
#include "check.h"
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

int main(void) {
    int fds[2], copy, on = 1;
    CHECK_EQ(pipe2(fds, O_CLOEXEC), 0);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(fcntl(fds[i], F_GETFD), FD_CLOEXEC);
        CHECK_EQ(fcntl(fds[i], F_GETFL), i == 0 ? O_RDONLY : O_WRONLY);
    }
    CHECK((copy = dup(fds[0])) >= 0);
    CHECK_EQ(fcntl(copy, F_GETFD), 0);
    CHECK_EQ(fcntl(copy, F_SETFL, O_NONBLOCK), 0);
    CHECK_EQ(fcntl(fds[0], F_GETFL), O_RDONLY | O_NONBLOCK);
    CHECK_EQ(fcntl(fds[1], F_GETFL), O_WRONLY);
    puts("O_CLOEXEC is the descriptor's, O_NONBLOCK the pipe end's");

    CHECK_EQ(ioctl(fds[1], FIONBIO, &on), 0);
    CHECK_EQ(fcntl(fds[1], F_GETFL), O_WRONLY | O_NONBLOCK);
    CHECK_EQ(ioctl(fds[1], FIONCLEX), 0);
    CHECK_EQ(fcntl(fds[1], F_GETFD), 0);
    CHECK_EQ(ioctl(fds[1], FIOCLEX), 0);
    CHECK_EQ(fcntl(fds[1], F_GETFD), FD_CLOEXEC);
    puts("ioctl does the same");

    CHECK_EQ(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(fcntl(fds[i], F_GETFD), FD_CLOEXEC);
        CHECK(fcntl(fds[i], F_GETFL) & O_NONBLOCK);
    }
    CHECK_ERR(pipe2(fds, O_APPEND), EINVAL);
    CHECK_ERR(syscall(SYS_pipe2, 8, 0), EFAULT);
    puts("both at once, nothing else");
    return exit_success();
}
