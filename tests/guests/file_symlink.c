// file_symlink: symbolic links are read, followed, not followed (O_NOFOLLOW, lstat), and end in ELOOP when they run in
// a circle; realpath resolves them. Releases are switched by such links, and configurations read through them.
#include "guest_dir.h"

int main(void) {
    char buffer[100], cwd[PATH_MAX], resolved[PATH_MAX];
    struct stat st;
    guest_dir_enter();
    CHECK_EQ(mkdir("dir", 0755), 0);
    int fd = open_new("dir/file");
    CHECK_EQ(write(fd, "text", 4), 4);
    CHECK_EQ(symlink("dir/file", "link"), 0);
    CHECK_EQ(symlink("dir", "dirlink"), 0);
    CHECK_EQ(symlink("nowhere", "dangling"), 0);
    CHECK_EQ(symlink("circle", "circle"), 0);
    CHECK_ERR(symlink("x", "link"), EEXIST);

    CHECK_EQ(readlink("link", buffer, sizeof buffer), 8);
    CHECK_EQ(memcmp(buffer, "dir/file", 8), 0);
    CHECK_EQ(readlink("link", buffer, 3), 3); // cut, without a word
    CHECK_ERR(readlink("dir/file", buffer, 100), EINVAL);
    CHECK_EQ(stat("link", &st), 0);
    CHECK(S_ISREG(st.st_mode) && st.st_size == 4);
    CHECK_EQ(lstat("link", &st), 0);
    CHECK(S_ISLNK(st.st_mode) && st.st_size == 8);
    puts("read and followed");

    CHECK((fd = open("dirlink/file", O_RDONLY)) >= 0);
    CHECK_EQ(read(fd, buffer, 100), 4);
    CHECK_ERR(open("link", O_RDONLY | O_NOFOLLOW), ELOOP);
    CHECK_ERR(open("circle", O_RDONLY), ELOOP);
    CHECK_ERR(stat("dangling", &st), ENOENT);
    CHECK_ERR(open("dangling", O_WRONLY | O_CREAT | O_EXCL, 0644), EEXIST);
    CHECK((fd = open("dangling", O_WRONLY | O_CREAT, 0644)) >= 0); // makes the target
    CHECK_EQ(stat("nowhere", &st), 0);
    puts("circles, danglers, O_NOFOLLOW");

    CHECK(getcwd(cwd, sizeof cwd) != NULL);
    strcat(cwd, "/dir/file");
    CHECK(realpath("dirlink/../link", resolved) != NULL);
    CHECK_EQ(strcmp(cwd, resolved), 0);
    CHECK_EQ(unlink("link"), 0);
    CHECK_EQ(stat("dir/file", &st), 0);
    CHECK_EQ(rename("dirlink", "renamed"), 0);
    CHECK_EQ(readlink("renamed", buffer, 100), 3);
    puts("resolved, removed, renamed: the link, not its target");
    return exit_success();
}
