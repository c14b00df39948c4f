// tmpfile: nameless and random-named files: tmpfile(), mkstemp, mkdtemp, O_TMPFILE given a name later. The names come
// from getrandom or the clock: both hosts must draw the same.
#include "guest_dir.h"

int main(void) {
    char name[] = "temp-XXXXXX", other[] = "temp-XXXXXX", dir[] = "dir-XXXXXX", text[10], path[64];
    struct stat st;
    guest_dir_enter();
    FILE *f = tmpfile();
    CHECK(f != NULL);
    CHECK(fputs("scratch", f) >= 0);
    rewind(f);
    CHECK(fgets(text, sizeof text, f) != NULL);
    CHECK_EQ(strcmp(text, "scratch"), 0);
    CHECK_EQ(fstat(fileno(f), &st), 0);
    CHECK(st.st_nlink == 0 && st.st_size == 7 && (st.st_mode & 077) == 0);
    CHECK_EQ(fclose(f), 0);
    puts("tmpfile: no name");

    int a = mkstemp(name), b = mkstemp(other);
    CHECK(a >= 0 && b >= 0);
    CHECK(strcmp(name, other) != 0 && strncmp(name, "temp-", 5) == 0 && strlen(name) == 11);
    CHECK_EQ(stat(name, &st), 0);
    CHECK_EQ(st.st_mode & 07777, 0600);
    CHECK(mkdtemp(dir) != NULL);
    CHECK_EQ(rmdir(dir), 0);
    CHECK_EQ(unlink(name), 0);
    CHECK_EQ(unlink(other), 0);
    puts("mkstemp, mkdtemp: names of their own");

    int fd = open(".", O_TMPFILE | O_RDWR, 0644);
    if (fd == -1) {
        CHECK(errno == EOPNOTSUPP || errno == EISDIR); // not every file system can
    } else {
        CHECK_EQ(write(fd, "complete", 8), 8);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        CHECK_EQ(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW), 0);
        CHECK_EQ(stat("named", &st), 0);
        CHECK(st.st_size == 8 && st.st_nlink == 1);
        CHECK_EQ(unlink("named"), 0);
    }
    puts("O_TMPFILE: named when complete, where there is such a thing");
    return exit_success();
}
