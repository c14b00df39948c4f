// epoll_errors: each misuse of epoll has its own errno: EBADF, EEXIST, ENOENT, EINVAL, EFAULT, and EPERM for what can't
// be waited for (regular files, directories). Event libraries decide by them: EPERM means "use it as always ready".
#include "guest_dir.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

int main(void) {
    guest_dir_enter();
    struct epoll_event event = {.events = EPOLLIN};
    struct epoll_event *volatile no_memory = (void *)8; // volatile: gcc would warn of what we mean to do
    volatile int minus_one = -1;
    int epoll = epoll_create1(0), fd = eventfd(0, 0), file = open_new("file"), directory = open(".", O_RDONLY);
    int null = open("/dev/null", O_RDWR), closed = 900, path = open("file", O_PATH);
    CHECK(epoll >= 0 && fd >= 0 && directory >= 0 && null >= 0 && path >= 0);

    CHECK_ERR(epoll_ctl(closed, EPOLL_CTL_ADD, fd, &event), EBADF);
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_ADD, closed, &event), EBADF);
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_ADD, -1, &event), EBADF);
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_ADD, path, &event), EBADF);
    CHECK_ERR(epoll_wait(closed, &event, 1, 0), EBADF);
    puts("EBADF");
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_ADD, file, &event), EPERM);
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_ADD, directory, &event), EPERM);
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_ADD, null, &event), EPERM);
    puts("EPERM");
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event), ENOENT);
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_DEL, fd, &event), ENOENT);
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), 0);
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), EEXIST);
    puts("ENOENT, EEXIST");
    CHECK_ERR(epoll_ctl(epoll, 77, fd, &event), EINVAL);
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_ADD, epoll, &event), EINVAL);
    CHECK_ERR(epoll_ctl(fd, EPOLL_CTL_ADD, null, &event), EPERM); // the target is looked at before the epoll itself
    CHECK_ERR(epoll_ctl(fd, EPOLL_CTL_ADD, epoll, &event), EINVAL);
    CHECK_ERR(epoll_wait(fd, &event, 1, 0), EINVAL);
    CHECK_ERR(epoll_wait(epoll, &event, 0, 0), EINVAL);
    CHECK_ERR(epoll_wait(epoll, &event, minus_one, 0), EINVAL);
    CHECK_ERR(epoll_create(0), EINVAL);
    CHECK_ERR(epoll_create1(1), EINVAL);
    puts("EINVAL");
    CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_MOD, fd, no_memory), EFAULT);
    CHECK_EQ(eventfd_write(fd, 1), 0);
    CHECK_ERR(epoll_wait(epoll, no_memory, 1, 0), EFAULT);
    CHECK_EQ(epoll_wait(epoll, &event, 1, 0), 1); // nothing was lost by that
    puts("EFAULT");
    return exit_success();
}
