// file_locks: flock and open-file-description locks conflict between two opens even in one process, POSIX record locks
// do not; all go when the file is closed. Databases lock their directory so that they run once only.
#include "guest_dir.h"
#include <sys/file.h>

static int lock(int fd, int command, short type, off_t start, off_t length) {
    struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    return fcntl(fd, command, &l);
}

static void *wait_for_flock(void *fd) {
    CHECK_EQ(flock(*(int *)fd, LOCK_EX), 0); // blocks until main lets go
    return NULL;
}

int main(void) {
    guest_dir_enter();
    int a = open_new("file"), b = open("file", O_RDWR), copy = dup(a);
    CHECK_EQ(flock(a, LOCK_SH), 0);
    CHECK_EQ(flock(b, LOCK_SH | LOCK_NB), 0);
    CHECK_ERR(flock(a, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    CHECK_EQ(flock(b, LOCK_UN), 0);
    CHECK_EQ(flock(a, LOCK_EX | LOCK_NB), 0);
    CHECK_ERR(flock(b, LOCK_SH | LOCK_NB), EWOULDBLOCK);
    CHECK_EQ(flock(copy, LOCK_EX | LOCK_NB), 0); // the same open file
    CHECK_EQ(close(a), 0);
    CHECK_ERR(flock(b, LOCK_SH | LOCK_NB), EWOULDBLOCK);
    CHECK_EQ(close(copy), 0);
    CHECK_EQ(flock(b, LOCK_EX | LOCK_NB), 0);
    puts("flock: between opens, gone with the last duplicate");

    CHECK((a = open("file", O_RDWR)) >= 0);
    pthread_t thread = spawn(wait_for_flock, &a);
    sleep_ms(5); // waits by now, most likely
    CHECK_EQ(flock(b, LOCK_UN), 0);
    join(thread);
    CHECK_EQ(flock(a, LOCK_UN), 0);
    puts("flock: a waiter gets it");

    CHECK_EQ(lock(a, F_OFD_SETLK, F_WRLCK, 0, 100), 0);
    CHECK_ERR(lock(b, F_OFD_SETLK, F_RDLCK, 50, 1), EAGAIN);
    CHECK_EQ(lock(b, F_OFD_SETLK, F_WRLCK, 100, 0), 0);
    struct flock l = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 10};
    CHECK_EQ(fcntl(b, F_OFD_GETLK, &l), 0);
    CHECK(l.l_type == F_WRLCK && l.l_start == 0 && l.l_len == 100 && l.l_pid == -1);
    CHECK_EQ(lock(a, F_OFD_SETLK, F_UNLCK, 0, 0), 0);
    CHECK_EQ(lock(b, F_OFD_SETLK, F_WRLCK, 0, 0), 0);
    CHECK_EQ(lock(b, F_OFD_SETLK, F_UNLCK, 0, 0), 0);
    puts("open-file-description locks: ranges between opens");

    CHECK_EQ(lock(a, F_SETLK, F_WRLCK, 0, 0), 0);
    CHECK_EQ(lock(b, F_SETLK, F_WRLCK, 0, 0), 0); // one process: one owner
    l = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET};
    CHECK_EQ(fcntl(b, F_GETLK, &l), 0);
    CHECK_EQ(l.l_type, F_UNLCK);
    CHECK_EQ(lock(a, F_SETLKW, F_UNLCK, 0, 0), 0);
    CHECK_ERR(lock(a, F_SETLK, 77, 0, 0), EINVAL);
    int read_only = open("file", O_RDONLY);
    CHECK_ERR(lock(read_only, F_SETLK, F_WRLCK, 0, 0), EBADF);
    puts("POSIX locks: the process never conflicts with itself");
    return exit_success();
}
