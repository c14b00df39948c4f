// file_rename_unlink: rename replaces atomically, open descriptors keep the old file, unlinked files live until closed,
// hard links share one file; wrong targets are refused. "Write new, fsync, rename" is how servers save their state.
#include "guest_dir.h"

static void save(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    CHECK(fd >= 0);
    CHECK_EQ(write(fd, text, strlen(text)), strlen(text));
    CHECK_EQ(close(fd), 0);
}

static bool holds(const char *path, const char *text) {
    char buffer[100] = {0};
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0);
    CHECK(read(fd, buffer, sizeof buffer - 1) >= 0);
    CHECK_EQ(close(fd), 0);
    return strcmp(buffer, text) == 0;
}

int main(void) {
    char buffer[10];
    struct stat st;
    guest_dir_enter();
    save("state", "old");
    int old = open("state", O_RDONLY);
    save("state.new", "new");
    CHECK_EQ(rename("state.new", "state"), 0);
    CHECK(holds("state", "new"));
    CHECK_ERR(open("state.new", O_RDONLY), ENOENT);
    CHECK_EQ(read(old, buffer, 10), 3);
    CHECK_EQ(memcmp(buffer, "old", 3), 0);
    CHECK_EQ(fstat(old, &st), 0);
    CHECK_EQ(st.st_nlink, 0);
    puts("renamed over: open descriptors keep the old");

    CHECK_EQ(link("state", "second"), 0);
    CHECK_EQ(stat("second", &st), 0);
    CHECK_EQ(st.st_nlink, 2);
    CHECK_EQ(rename("state", "second"), 0); // two names of one file: nothing happens
    CHECK(holds("state", "new") && holds("second", "new"));
    int fd = open("state", O_RDWR);
    CHECK_EQ(unlink("state"), 0);
    CHECK_EQ(unlink("second"), 0);
    CHECK_EQ(write(fd, "alive", 5), 5);
    CHECK_EQ(pread(fd, buffer, 10, 0), 5);
    CHECK_ERR(stat("state", &st), ENOENT);
    puts("unlinked while open: alive");

    CHECK_EQ(mkdir("dir", 0755), 0);
    CHECK_EQ(mkdir("dir/inner", 0755), 0);
    save("file", "x");
    CHECK_ERR(rename("file", "dir"), EISDIR);
    CHECK_ERR(rename("dir", "file"), ENOTDIR);
    CHECK_ERR(rename("dir", "dir/inner/below"), EINVAL);
    CHECK_ERR(rename("missing", "file"), ENOENT);
    CHECK_ERR(rmdir("dir"), ENOTEMPTY);
    CHECK_ERR(unlink("dir"), EISDIR);
    CHECK_ERR(rmdir("file"), ENOTDIR);
    CHECK_ERR(mkdir("dir", 0755), EEXIST);
    CHECK_EQ(rename("dir/inner", "moved"), 0);
    CHECK_EQ(rmdir("dir"), 0);
    CHECK_EQ(rename("moved", "dir"), 0);
    CHECK_ERR(link("dir", "dir2"), EPERM);
    puts("directories");

    save("other", "y");
    CHECK_ERR(renameat2(AT_FDCWD, "file", AT_FDCWD, "other", RENAME_NOREPLACE), EEXIST);
    CHECK_EQ(renameat2(AT_FDCWD, "file", AT_FDCWD, "other", RENAME_EXCHANGE), 0);
    CHECK(holds("file", "y") && holds("other", "x"));
    puts("NOREPLACE and EXCHANGE");
    return exit_success();
}
