// fork_pipe: a child writes 100 kB through a pipe, more than it holds, and the parent reads to the end of file, which
// comes when the child has exited; then the other way round. What a child tells its parent is input to the parent.
#include "check.h"
#include <sys/wait.h>

enum { TOTAL = 100000 };

static unsigned char pattern(int i) { return (unsigned char)(i * 3 + i / 255); }

static void write_pattern(int fd) {
    unsigned char chunk[3000];
    for (int done = 0; done < TOTAL;) {
        int size = TOTAL - done < (int)sizeof chunk ? TOTAL - done : (int)sizeof chunk;
        for (int i = 0; i < size; i++) chunk[i] = pattern(done + i);
        CHECK_EQ(write(fd, chunk, size), size);
        done += size;
    }
}

static void read_pattern(int fd) {
    unsigned char chunk[7001];
    int total = 0;
    ssize_t n;
    while ((n = read(fd, chunk, sizeof chunk)) > 0)
        for (ssize_t i = 0; i < n; i++, total++) CHECK_EQ(chunk[i], pattern(total));
    CHECK_EQ(n, 0);
    CHECK_EQ(total, TOTAL);
}

int main(void) {
    for (int child_writes = 1; child_writes >= 0; child_writes--) {
        int fds[2], status;
        CHECK_EQ(pipe(fds), 0);
        pid_t child = fork();
        CHECK(child >= 0);
        bool writes = (child == 0) == (child_writes == 1);
        CHECK_EQ(close(fds[writes ? 0 : 1]), 0);
        if (writes) write_pattern(fds[1]);
        else read_pattern(fds[0]);
        if (child == 0) _exit(0);
        CHECK_EQ(close(fds[writes ? 1 : 0]), 0);
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(status, 0);
        puts(child_writes ? "child to parent" : "parent to child");
        CHECK_EQ(fflush(stdout), 0); // or the next child would inherit it
    }
    return exit_success();
}
