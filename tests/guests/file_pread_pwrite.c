// file_pread_pwrite: positioned reads and writes, plain and vectored, leave the position alone and work from several
// threads on one descriptor. Databases do all their file work with them.
#include "guest_dir.h"
#include <sys/uio.h>

enum { THREADS = 4, BLOCKS = 64, BLOCK = 1000 };
static int fd;

static void *write_blocks(void *arg) {
    int mine = (int)(intptr_t)arg;
    char block[BLOCK], back[BLOCK];
    for (int i = mine; i < BLOCKS; i += THREADS) {
        memset(block, i + 1, BLOCK);
        CHECK_EQ(pwrite(fd, block, BLOCK, i * BLOCK), BLOCK);
        CHECK_EQ(pread(fd, back, BLOCK, i * BLOCK), BLOCK);
        CHECK_EQ(memcmp(block, back, BLOCK), 0);
    }
    return NULL;
}

int main(void) {
    char buffer[BLOCK], a[3], b[4];
    guest_dir_enter();
    fd = open_new("file");
    CHECK_EQ(write(fd, "0123456789", 10), 10);
    CHECK_EQ(pwrite(fd, "abc", 3, 4), 3);
    CHECK_EQ(pread(fd, buffer, 100, 2), 8);
    CHECK_EQ(memcmp(buffer, "23abc789", 8), 0);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 10);
    CHECK_EQ(pread(fd, buffer, 10, 10), 0);
    CHECK_EQ(pread(fd, buffer, 10, 5000), 0);
    CHECK_ERR(pread(fd, buffer, 10, -1), EINVAL);
    puts("position left alone");

    struct iovec out[2] = {{"vec", 3}, {"tored", 5}}, in[2] = {{a, 3}, {b, 4}};
    CHECK_EQ(pwritev(fd, out, 2, 20), 8);
    CHECK_EQ(preadv(fd, in, 2, 19), 7);
    CHECK(memcmp(a, "\0ve", 3) == 0 && memcmp(b, "ctor", 4) == 0);
    CHECK_EQ(preadv2(fd, in, 2, 20, 0), 7);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 10);
    CHECK_EQ(pwritev2(fd, out, 2, -1, 0), 8); // -1: at the position, which moves
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 18);
    puts("vectors too");

    pthread_t threads[THREADS];
    for (intptr_t i = 0; i < THREADS; i++) threads[i] = spawn(write_blocks, (void *)i);
    for (int i = 0; i < THREADS; i++) join(threads[i]);
    for (int i = 0; i < BLOCKS; i++) {
        CHECK_EQ(pread(fd, buffer, BLOCK, i * BLOCK), BLOCK);
        for (int j = 0; j < BLOCK; j++) CHECK_EQ(buffer[j], i + 1);
    }
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 18);
    puts("four threads on one descriptor");
    return exit_success();
}
