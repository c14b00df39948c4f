// sendfile_file_to_pipe: sendfile copies from a file to a pipe, moving either the file's position or the given offset,
// is short at the end of the file, and says EAGAIN when a non-blocking pipe is full. copy_file_range does it for files.
#include "guest_dir.h"
#include <sys/sendfile.h>

enum { SIZE = 200000 };
static char content[SIZE], got[SIZE];

int main(void) {
    int fds[2];
    guest_dir_enter();
    int fd = open_new("file");
    for (int i = 0; i < SIZE; i++) content[i] = (char)(i * 11 + i / 333);
    CHECK_EQ(write(fd, content, SIZE), SIZE);
    CHECK_EQ(lseek(fd, 1000, SEEK_SET), 1000);
    CHECK_EQ(pipe2(fds, O_NONBLOCK), 0);

    CHECK_EQ(sendfile(fds[1], fd, NULL, 500), 500);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 1500);
    off_t offset = SIZE - 100;
    CHECK_EQ(sendfile(fds[1], fd, &offset, 5000), 100);
    CHECK_EQ(offset, SIZE);
    CHECK_EQ(sendfile(fds[1], fd, &offset, 5000), 0);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 1500);
    CHECK_EQ(read(fds[0], got, SIZE), 600);
    CHECK(memcmp(got, content + 1000, 500) == 0 && memcmp(got + 500, content + SIZE - 100, 100) == 0);
    puts("by position and by offset, short at the end");

    off_t total = 0;
    offset = 0;
    while (total < SIZE) {
        ssize_t n;
        while ((n = sendfile(fds[1], fd, &offset, SIZE)) > 0) {} // until the file ends or the pipe is full
        if (n == -1) CHECK_EQ(errno, EAGAIN);
        while ((n = read(fds[0], got + total, (size_t)(SIZE - total))) > 0) total += n;
    }
    CHECK_EQ(offset, SIZE);
    CHECK_EQ(memcmp(got, content, SIZE), 0);
    puts("all of it through a full pipe");

    CHECK_ERR(sendfile(fds[1], fds[0], NULL, 1), EINVAL);
    CHECK_ERR(sendfile(fds[0], fd, NULL, 1), EBADF);
    int copy = open_new("copy");
    off_t in_offset = 5, out_offset = 2;
    CHECK_EQ(copy_file_range(fd, &in_offset, copy, &out_offset, 1000, 0), 1000);
    CHECK(in_offset == 1005 && out_offset == 1002);
    CHECK_EQ(pread(copy, got, 2000, 0), 1002);
    CHECK(got[0] == 0 && memcmp(got + 2, content + 5, 1000) == 0);
    CHECK_EQ(sendfile(copy, fd, &in_offset, 10), 10); // to a file
    puts("from file to file");
    return exit_success();
}
