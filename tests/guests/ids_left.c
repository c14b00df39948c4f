// ids_left: a server that gives up being root stays what it became: user, groups, umask, directory, and no way back.
#include "guest_dir.h"
#include <grp.h>
#include <sys/prctl.h>

int main(void) {
    guest_dir_enter();
    CHECK_EQ(geteuid(), 0);
    CHECK_EQ(mkdir("own", 0700), 0);
    CHECK_EQ(chown("own", 1234, 5678), 0);
    CHECK_EQ(chdir("own"), 0);
    umask(027);
    CHECK_EQ(umask(027), 027);
    CHECK_EQ(setgroups(3, (gid_t[]){11, 12, 13}), 0);
    CHECK_EQ(setresgid(5678, 5678, 5678), 0);
    CHECK_EQ(setresuid(1234, 1234, 1234), 0);
    CHECK_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    for (int k = 0; k < 100; k++) {
        uid_t u[3];
        gid_t g[3], more[4];
        struct stat st;
        CHECK_EQ(nanosleep(&(struct timespec){0, 1000000}, NULL), 0);
        CHECK(getresuid(&u[0], &u[1], &u[2]) == 0 && u[0] == 1234 && u[1] == 1234 && u[2] == 1234);
        CHECK(getresgid(&g[0], &g[1], &g[2]) == 0 && g[0] == 5678 && g[1] == 5678 && g[2] == 5678);
        CHECK_EQ(getgroups(4, more), 3);
        CHECK(more[0] == 11 && more[1] == 12 && more[2] == 13);
        CHECK_ERR(setuid(0), EPERM);
        CHECK_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
        int fd = open("file", O_WRONLY | O_CREAT | O_TRUNC, 0666);
        CHECK(fd >= 0);
        CHECK_EQ(fstat(fd, &st), 0);
        CHECK(st.st_uid == 1234 && st.st_gid == 5678 && (st.st_mode & 0777) == 0640);
        CHECK_EQ(close(fd), 0);
        CHECK_EQ(unlink("file"), 0);
    }
    puts("nobody's root");
    return exit_success();
}
