// file_truncate: truncate and ftruncate cut and extend, with zeroes, without moving the position; fallocate makes room
// with or without growing, and punches holes where the file system can.
#include "guest_dir.h"

static off_t size_of(int fd) {
    struct stat st;
    CHECK_EQ(fstat(fd, &st), 0);
    return st.st_size;
}

int main(void) {
    char buffer[10000];
    guest_dir_enter();
    int fd = open_new("file");
    memset(buffer, 'd', sizeof buffer);
    CHECK_EQ(write(fd, buffer, 10000), 10000);
    CHECK_EQ(ftruncate(fd, 5000), 0);
    CHECK_EQ(size_of(fd), 5000);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 10000);
    CHECK_EQ(truncate("file", 8000), 0);
    CHECK_EQ(pread(fd, buffer, 10000, 0), 8000);
    for (int i = 0; i < 8000; i++) CHECK_EQ(buffer[i], i < 5000 ? 'd' : 0); // the old bytes do not come back
    CHECK_EQ(write(fd, "far", 3), 3);
    CHECK_EQ(size_of(fd), 10003);
    puts("cut and extended");

    CHECK_EQ(posix_fallocate(fd, 0, 20000), 0);
    CHECK_EQ(size_of(fd), 20000);
    CHECK_EQ(pread(fd, buffer, 3, 10000), 3);
    CHECK_EQ(memcmp(buffer, "far", 3), 0);
    if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 50000) == -1) CHECK_EQ(errno, EOPNOTSUPP);
    CHECK_EQ(size_of(fd), 20000);
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0) {
        CHECK_EQ(pread(fd, buffer, 4097, 0), 4097);
        CHECK(buffer[0] == 0 && buffer[4095] == 0 && buffer[4096] == 'd');
    } else {
        CHECK_EQ(errno, EOPNOTSUPP);
    }
    puts("room made in advance");

    CHECK_ERR(ftruncate(fd, -1), EINVAL);
    CHECK_ERR(truncate("none", 0), ENOENT);
    CHECK_ERR(truncate(".", 0), EISDIR);
    CHECK_EQ(truncate("file", 0), 0);
    CHECK_EQ(size_of(fd), 0);
    CHECK_EQ(ftruncate(fd, (off_t)1 << 40), 0); // sparse
    CHECK_EQ(pread(fd, buffer, 10, (off_t)1 << 39), 10);
    CHECK_EQ(buffer[0], 0);
    CHECK_EQ(ftruncate(fd, 100), 0);
    puts("a terabyte of nothing");
    return exit_success();
}
