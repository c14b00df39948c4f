// file_at: the *at calls work relative to a directory descriptor, which goes on meaning the same directory when that is
// renamed or the working directory changes. Careful programs use nothing else.
#include "guest_dir.h"

int main(void) {
    struct stat st;
    struct statx stx;
    char buffer[100];
    guest_dir_enter();
    CHECK_EQ(mkdir("a", 0755), 0);
    int a = open("a", O_RDONLY | O_DIRECTORY), path = open("a", O_PATH | O_DIRECTORY);
    CHECK(a >= 0 && path >= 0);
    CHECK_EQ(mkdirat(a, "sub", 0750), 0);
    int fd = openat(a, "sub/file", O_RDWR | O_CREAT, 0640);
    CHECK(fd >= 0);
    CHECK_EQ(write(fd, "hello", 5), 5);
    CHECK_EQ(rename("a", "renamed"), 0);
    CHECK_EQ(chdir("/"), 0);

    CHECK_EQ(fstatat(a, "sub/file", &st, 0), 0);
    CHECK(st.st_size == 5 && (st.st_mode & 07777) == 0640);
    CHECK_EQ(fstatat(fd, "", &st, AT_EMPTY_PATH), 0);
    CHECK_EQ(st.st_size, 5);
    CHECK_EQ(statx(path, "sub/file", 0, STATX_BASIC_STATS, &stx), 0);
    CHECK(stx.stx_size == 5 && stx.stx_ino == st.st_ino && (stx.stx_mode & 07777) == 0640);
    CHECK_EQ(faccessat(a, "sub/file", R_OK | W_OK, 0), 0);
    CHECK_ERR(faccessat(a, "sub/none", F_OK, 0), ENOENT);
    puts("renamed and cwd changed: the descriptor still leads there");

    CHECK_EQ(symlinkat("sub/file", a, "link"), 0);
    CHECK_EQ(readlinkat(a, "link", buffer, 100), 8);
    CHECK_EQ(linkat(a, "sub/file", path, "hard", 0), 0);
    CHECK_EQ(fchmodat(a, "hard", 0600, 0), 0);
    CHECK_EQ(fstat(fd, &st), 0);
    CHECK(st.st_nlink == 2 && (st.st_mode & 07777) == 0600);
    CHECK_EQ(renameat(a, "hard", a, "sub/other"), 0);
    CHECK_EQ(unlinkat(a, "sub/other", 0), 0);
    CHECK_ERR(unlinkat(a, "sub", 0), EISDIR);
    CHECK_ERR(unlinkat(a, "sub", AT_REMOVEDIR), ENOTEMPTY);
    CHECK_ERR(openat(a, "sub/file/x", O_RDONLY), ENOTDIR);
    CHECK_ERR(openat(777, "x", O_RDONLY), EBADF);
    CHECK((fd = openat(777, "/dev/null", O_RDONLY)) >= 0); // absolute: the descriptor is not looked at
    CHECK_EQ(unlinkat(a, "sub/file", 0), 0);
    CHECK_EQ(unlinkat(a, "sub", AT_REMOVEDIR), 0);
    CHECK_EQ(unlinkat(a, "link", 0), 0);
    puts("links, modes, removal");

    CHECK_ERR(read(path, buffer, 1), EBADF); // O_PATH: good for *at only
    CHECK_EQ(fchdir(path), 0);
    CHECK_EQ(fstatat(AT_FDCWD, "../renamed", &st, 0), 0);
    CHECK(S_ISDIR(st.st_mode));
    puts("O_PATH");
    return exit_success();
}
