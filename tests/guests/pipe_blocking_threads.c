// pipe_blocking_threads: a reader waits on an empty pipe and a writer on a full one, all bytes arrive in order, writes
// of up to PIPE_BUF from several threads never mix, and close wakes the reader with end of file.
#include "check.h"
#include <limits.h>

enum { TOTAL = 1 << 20, WRITERS = 4, RECORDS = 300, RECORD = 512 };
static int fds[2];

static unsigned char pattern(int i) { return (unsigned char)(i * 7 + i / 256); }

static void *write_stream(void *arg) {
    static unsigned char chunk[100000]; // more than the pipe holds: one write waits in the middle
    for (int done = 0; done < TOTAL;) {
        int size = TOTAL - done < (int)sizeof chunk ? TOTAL - done : (int)sizeof chunk;
        for (int i = 0; i < size; i++) chunk[i] = pattern(done + i);
        CHECK_EQ(write(fds[1], chunk, size), size); // a blocking write is never short
        done += size;
    }
    CHECK_EQ(close(fds[1]), 0);
    return arg;
}

static void *write_records(void *name) {
    char record[RECORD];
    memset(record, (int)(intptr_t)name, sizeof record);
    for (int i = 0; i < RECORDS; i++) CHECK_EQ(write(fds[1], record, sizeof record), sizeof record);
    return NULL;
}

int main(void) {
    static unsigned char buffer[30000];
    CHECK_EQ(pipe(fds), 0);
    pthread_t writer = spawn(write_stream, NULL);
    int total = 0;
    ssize_t n;
    while ((n = read(fds[0], buffer, sizeof buffer)) > 0)
        for (ssize_t i = 0; i < n; i++, total++) CHECK_EQ(buffer[i], pattern(total));
    CHECK_EQ(n, 0);
    join(writer);
    CHECK_EQ(close(fds[0]), 0);
    printf("%d bytes in order, then end of file\n", total);

    CHECK_EQ(pipe(fds), 0);
    pthread_t writers[WRITERS];
    for (intptr_t i = 0; i < WRITERS; i++) writers[i] = spawn(write_records, (void *)('a' + i));
    int records[WRITERS] = {0};
    for (int r = 0; r < WRITERS * RECORDS; r++) {
        for (int have = 0; have < RECORD; have += n) {
            n = read(fds[0], buffer + have, RECORD - have);
            CHECK(n > 0);
        }
        for (int i = 1; i < RECORD; i++) CHECK_EQ(buffer[i], buffer[0]);
        CHECK(buffer[0] >= 'a' && buffer[0] < 'a' + WRITERS);
        records[buffer[0] - 'a']++;
    }
    for (int i = 0; i < WRITERS; i++) CHECK_EQ(records[i], RECORDS);
    for (int i = 0; i < WRITERS; i++) join(writers[i]);
    printf("%d writers, %d records each, none torn\n", WRITERS, RECORDS);
    return exit_success();
}
