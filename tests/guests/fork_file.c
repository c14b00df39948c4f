// fork_file: the BGSAVE pattern: a child writes its frozen picture of memory to a temporary file, 5 MB, and exits; the
// parent goes on changing the data, waits, renames the file over the old one and reads it back.
#include "guest_dir.h"
#include <sys/wait.h>

enum { WORDS = 5 << 18 }; // 5 MB of uint32_t
static uint32_t table[WORDS];

static void save(const char *path) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    CHECK(fd >= 0);
    const char *p = (const char *)table;
    for (size_t done = 0; done < sizeof table;) {
        ssize_t n = write(fd, p + done, sizeof table - done < 65536 ? sizeof table - done : 65536);
        CHECK(n > 0);
        done += (size_t)n;
    }
    CHECK_EQ(fsync(fd), 0);
    CHECK_EQ(close(fd), 0);
}

int main(void) {
    static uint32_t buffer[16384];
    int status;
    guest_dir_enter();
    for (int round = 1; round <= 2; round++) {
        for (uint32_t i = 0; i < WORDS; i++) table[i] = i * (uint32_t)round;
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            save("temp.rdb");
            _exit(0);
        }
        long changed = 0;
        while (waitpid(child, &status, WNOHANG) == 0) table[changed++ * 1024 % WORDS] = 0xffffffff;
        CHECK_EQ(status, 0);
        CHECK_EQ(rename("temp.rdb", "dump.rdb"), 0);

        int fd = open("dump.rdb", O_RDONLY);
        uint32_t at = 0;
        ssize_t n;
        while ((n = read(fd, buffer, sizeof buffer)) > 0)
            for (ssize_t i = 0; i < n / 4; i++, at++) CHECK_EQ(buffer[i], at * (uint32_t)round);
        CHECK_EQ(at, WORDS);
        CHECK_EQ(close(fd), 0);
        CHECK_ERR(access("temp.rdb", F_OK), ENOENT);
        printf("saved and read back %u words, round %d\n", at, round);
        CHECK_EQ(fflush(stdout), 0);
    }
    return exit_success();
}
