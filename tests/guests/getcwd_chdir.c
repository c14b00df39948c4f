// getcwd_chdir: the working directory changes by path and by descriptor, shows through getcwd, is one for all threads,
// and survives the directory's renaming and removal.
#include "guest_dir.h"

static char base[PATH_MAX];

static bool cwd_is(const char *below) {
    char cwd[PATH_MAX], want[2 * PATH_MAX];
    CHECK(getcwd(cwd, sizeof cwd) != NULL);
    snprintf(want, sizeof want, "%s%s", base, below);
    return strcmp(cwd, want) == 0;
}

static void *change_in_thread(void *arg) {
    CHECK_EQ(chdir("b"), 0);
    return arg;
}

int main(void) {
    char small[4];
    guest_dir_enter();
    CHECK(getcwd(base, sizeof base) != NULL);
    CHECK(base[0] == '/');
    CHECK_EQ(mkdir("a", 0755), 0);
    CHECK_EQ(mkdir("a/b", 0755), 0);
    CHECK_EQ(chdir("a"), 0);
    CHECK(cwd_is("/a"));
    join(spawn(change_in_thread, NULL));
    CHECK(cwd_is("/a/b"));
    CHECK_EQ(chdir(".."), 0);
    CHECK(cwd_is("/a"));
    puts("by path, in all threads");

    int fd = open("b", O_RDONLY | O_DIRECTORY);
    CHECK_EQ(fchdir(fd), 0);
    CHECK(cwd_is("/a/b"));
    CHECK_EQ(rename("../../a", "../../renamed"), 0);
    CHECK(cwd_is("/renamed/b"));
    CHECK_EQ(close(open_new("here")), 0);
    CHECK_EQ(access("../../renamed/b/here", F_OK), 0);
    puts("by descriptor, followed through a rename");

    CHECK_EQ(unlink("here"), 0);
    CHECK_EQ(rmdir("../b"), 0);
    CHECK(getcwd(small, 0) == NULL && errno == EINVAL);
    char *cwd = getcwd(NULL, 0);
    CHECK(cwd == NULL && errno == ENOENT);
    CHECK_ERR(open("x", O_WRONLY | O_CREAT, 0644), ENOENT);
    CHECK_EQ(chdir(base), 0);
    CHECK(getcwd(small, sizeof small) == NULL && errno == ERANGE);
    CHECK_ERR(chdir("none"), ENOENT);
    CHECK_EQ(close(open_new("file")), 0);
    CHECK_ERR(chdir("file"), ENOTDIR);
    puts("removed under our feet");
    return exit_success();
}
