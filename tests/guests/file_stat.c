// file_stat: stat, fstat, lstat and statx agree on kind, mode, size, owner and links; hard links have one inode, other
// files others, and the inode stays the same over time. Programs tell files apart by (dev, ino): log rotation does.
#include "guest_dir.h"
#include <sys/socket.h>
#include <sys/sysmacros.h>

static struct stat stat_of(const char *path) {
    struct stat a, b;
    struct statx x;
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0);
    CHECK_EQ(stat(path, &a), 0);
    CHECK_EQ(fstat(fd, &b), 0);
    CHECK_EQ(statx(AT_FDCWD, path, 0, STATX_BASIC_STATS, &x), 0);
    CHECK_EQ(close(fd), 0);
    CHECK(a.st_dev == b.st_dev && a.st_ino == b.st_ino && a.st_mode == b.st_mode && a.st_size == b.st_size);
    CHECK(a.st_nlink == b.st_nlink && a.st_uid == b.st_uid && a.st_gid == b.st_gid);
    CHECK(x.stx_ino == a.st_ino && x.stx_mode == a.st_mode && x.stx_size == (uint64_t)a.st_size);
    CHECK(makedev(x.stx_dev_major, x.stx_dev_minor) == a.st_dev && x.stx_nlink == a.st_nlink);
    CHECK(a.st_mtime == b.st_mtime && a.st_mtime == x.stx_mtime.tv_sec);
    return a;
}

int main(void) {
    guest_dir_enter();
    umask(022);
    int fd = open("one", O_RDWR | O_CREAT, 0666);
    CHECK_EQ(write(fd, "12345", 5), 5);
    CHECK_EQ(close(open_new("two")), 0);
    CHECK_EQ(link("one", "one-again"), 0);
    CHECK_EQ(mkdir("dir", 0700), 0);

    struct stat one = stat_of("one"), two = stat_of("two"), again = stat_of("one-again"), dir = stat_of("dir");
    CHECK(S_ISREG(one.st_mode) && S_ISDIR(dir.st_mode));
    CHECK_EQ(one.st_mode & 07777, 0644);
    CHECK_EQ(dir.st_mode & 07777, 0700);
    CHECK(one.st_size == 5 && two.st_size == 0 && one.st_nlink == 2 && two.st_nlink == 1);
    CHECK(one.st_uid == geteuid() && one.st_blksize > 0);
    puts("kind, mode, size, links");

    CHECK(one.st_ino == again.st_ino && one.st_dev == again.st_dev);
    CHECK(one.st_ino != two.st_ino && one.st_ino != dir.st_ino && two.st_ino != dir.st_ino);
    CHECK_EQ(rename("one", "renamed"), 0);
    CHECK_EQ(stat_of("renamed").st_ino, one.st_ino);
    CHECK_EQ(fchmod(fd, 0400), 0);
    CHECK_EQ(chmod("two", 04711), 0);
    CHECK_EQ(stat_of("renamed").st_mode & 07777, 0400);
    CHECK_EQ(stat_of("two").st_mode & 07777, 04711);
    CHECK_EQ(stat_of("renamed").st_ino, one.st_ino);
    puts("one inode per file, whatever its names");

    struct stat st;
    int fds[2];
    CHECK_EQ(stat("/dev/null", &st), 0);
    CHECK(S_ISCHR(st.st_mode) && major(st.st_rdev) == 1 && minor(st.st_rdev) == 3);
    CHECK_EQ(pipe(fds), 0);
    CHECK_EQ(fstat(fds[0], &st), 0);
    CHECK(S_ISFIFO(st.st_mode));
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    CHECK_EQ(fstat(fds[0], &st), 0);
    CHECK(S_ISSOCK(st.st_mode));
    CHECK((fd = socket(AF_INET, SOCK_STREAM, 0)) >= 0);
    CHECK_EQ(fstat(fd, &st), 0);
    CHECK(S_ISSOCK(st.st_mode));
    CHECK_ERR(stat("none", &st), ENOENT);
    CHECK_ERR(stat("two/x", &st), ENOTDIR);
    CHECK_ERR(stat("", &st), ENOENT);
    puts("devices, pipes, sockets");
    return exit_success();
}
