// umask: the mask takes bits away from the modes of new files, directories and fifos, not from chmod, gives its old
// value back, and is one for all threads.
#include "guest_dir.h"

static int mode_of(const char *path) {
    struct stat st;
    CHECK_EQ(stat(path, &st), 0);
    return st.st_mode & 07777;
}

static void *set_in_thread(void *arg) {
    CHECK_EQ(umask(0077), 0027);
    return arg;
}

int main(void) {
    guest_dir_enter();
    umask(0022);
    CHECK_EQ(umask(0027), 0022);
    CHECK_EQ(close(open("file", O_WRONLY | O_CREAT, 0666)), 0);
    CHECK_EQ(mkdir("dir", 0777), 0);
    CHECK_EQ(mkfifo("fifo", 0666), 0);
    printf("027: %o %o %o\n", mode_of("file"), mode_of("dir"), mode_of("fifo"));
    join(spawn(set_in_thread, NULL));
    CHECK_EQ(close(open("private", O_WRONLY | O_CREAT, 0666)), 0);
    CHECK_EQ(close(open("file", O_WRONLY | O_CREAT, 0666)), 0); // existed: keeps its mode
    CHECK_EQ(chmod("dir", 0777), 0);
    printf("077 from a thread: %o %o %o\n", mode_of("private"), mode_of("file"), mode_of("dir"));
    CHECK_EQ(umask(01777), 0077); // only the permission bits count
    CHECK_EQ(umask(0), 0777);
    CHECK_EQ(close(open("open", O_WRONLY | O_CREAT, 0666)), 0);
    printf("0: %o\n", mode_of("open"));
    return exit_success();
}
