// fsync_fdatasync: all ways to make data durable succeed on files and directories, also while another thread writes,
// and are refused on what can't be synced. A shim runs them on a helper thread: the guest must not notice.
#include "guest_dir.h"

static int fd, stop;

static void *keep_writing(void *arg) {
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) CHECK_EQ(pwrite(fd, "noise", 5, 4096), 5);
    return arg;
}

int main(void) {
    guest_dir_enter();
    fd = open_new("file");
    pthread_t thread = spawn(keep_writing, NULL);
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(pwrite(fd, "data", 4, i * 4), 4);
        CHECK_EQ(i % 2 ? fsync(fd) : fdatasync(fd), 0);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
    join(thread);
    CHECK_EQ(pwrite(fd, "noise", 5, 4096), 5);
    CHECK_EQ(sync_file_range(fd, 0, 4096, SYNC_FILE_RANGE_WRITE), 0);
    CHECK_EQ(close(fd), 0);
    puts("fsync, fdatasync, sync_file_range");

    CHECK((fd = open("sync", O_WRONLY | O_CREAT | O_DSYNC, 0644)) >= 0);
    CHECK_EQ(write(fd, "x", 1), 1);
    CHECK_EQ(fcntl(fd, F_GETFL) & O_DSYNC, O_DSYNC);
    int directory = open(".", O_RDONLY | O_DIRECTORY), read_only = open("file", O_RDONLY);
    CHECK_EQ(fsync(directory), 0);
    CHECK_EQ(fsync(read_only), 0); // that too
    puts("O_DSYNC, directories, read-only descriptors");

    int fds[2];
    CHECK_EQ(pipe(fds), 0);
    CHECK_ERR(fdatasync(fds[1]), EINVAL);
    CHECK_ERR(fsync(777), EBADF);
    CHECK_EQ(posix_fadvise(read_only, 0, 0, POSIX_FADV_DONTNEED), 0);
    CHECK_EQ(posix_fadvise(fds[0], 0, 0, POSIX_FADV_DONTNEED), ESPIPE);
    CHECK_EQ(readahead(read_only, 0, 4096), 0);
    puts("refused where senseless");
    return exit_success();
}
