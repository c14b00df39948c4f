// file_append: with O_APPEND every write goes to the end, wherever the position was and whoever else wrote, so threads
// and descriptors appending to one log never overwrite each other. The log file of every server.
#include "guest_dir.h"

enum { THREADS = 4, RECORDS = 200, RECORD = 64 };

static void *append_records(void *name) {
    char record[RECORD];
    memset(record, (int)(intptr_t)name, RECORD);
    record[RECORD - 1] = '\n';
    int fd = open("log", O_WRONLY | O_APPEND | O_CREAT, 0644);
    CHECK(fd >= 0);
    for (int i = 0; i < RECORDS; i++) CHECK_EQ(write(fd, record, RECORD), RECORD);
    CHECK_EQ(close(fd), 0);
    return NULL;
}

int main(void) {
    char buffer[100];
    guest_dir_enter();
    int a = open("both", O_RDWR | O_APPEND | O_CREAT, 0644), b = open("both", O_RDWR);
    CHECK(a >= 0 && b >= 0);
    CHECK_EQ(write(a, "one", 3), 3);
    CHECK_EQ(lseek(a, 0, SEEK_SET), 0);
    CHECK_EQ(read(a, buffer, 1), 1); // reading heeds the position
    CHECK_EQ(write(a, "two", 3), 3);
    CHECK_EQ(lseek(a, 0, SEEK_CUR), 6);
    CHECK_EQ(write(b, "ONE", 3), 3);
    CHECK_EQ(fcntl(b, F_SETFL, O_APPEND), 0); // may be switched on later
    CHECK_EQ(write(b, "three", 5), 5);
    CHECK_EQ(fcntl(b, F_SETFL, 0), 0);
    CHECK_EQ(pwrite(b, "X", 1, 0), 1);
    CHECK_EQ(pread(a, buffer, 100, 0), 11);
    printf("%.11s\n", buffer);

    pthread_t threads[THREADS];
    for (intptr_t i = 0; i < THREADS; i++) threads[i] = spawn(append_records, (void *)('a' + i));
    for (int i = 0; i < THREADS; i++) join(threads[i]);
    int fd = open("log", O_RDONLY), counts[THREADS] = {0};
    CHECK_EQ(lseek(fd, 0, SEEK_END), THREADS * RECORDS * RECORD);
    for (int i = 0; i < THREADS * RECORDS; i++) {
        CHECK_EQ(pread(fd, buffer, RECORD, i * RECORD), RECORD);
        for (int j = 1; j < RECORD - 1; j++) CHECK_EQ(buffer[j], buffer[0]);
        CHECK_EQ(buffer[RECORD - 1], '\n');
        counts[buffer[0] - 'a']++;
    }
    for (int i = 0; i < THREADS; i++) CHECK_EQ(counts[i], RECORDS);
    // the order of threads is not the same on every run: leave a file that is
    CHECK_EQ(unlink("log"), 0);
    printf("%d threads appended %d whole records each\n", THREADS, RECORDS);
    return exit_success();
}
