// file_rw: one position per open file moves with reads and writes, lseek sets it, beyond the end reads give 0 and
// writes leave a hole of zeroes; O_TRUNC, O_EXCL and O_CREAT do what they say.
#include "guest_dir.h"

int main(void) {
    char buffer[10000];
    guest_dir_enter();
    int fd = open("file", O_RDWR | O_CREAT | O_EXCL, 0644);
    CHECK(fd >= 0);
    CHECK_ERR(open("file", O_RDWR | O_CREAT | O_EXCL, 0644), EEXIST);
    CHECK_ERR(open("missing", O_RDWR), ENOENT);

    CHECK_EQ(write(fd, "Hello, world", 12), 12);
    CHECK_EQ(read(fd, buffer, 10), 0); // at the end
    CHECK_EQ(lseek(fd, 7, SEEK_SET), 7);
    CHECK_EQ(read(fd, buffer, 100), 5);
    CHECK_EQ(memcmp(buffer, "world", 5), 0);
    CHECK_EQ(lseek(fd, -12, SEEK_END), 0);
    CHECK_EQ(write(fd, "J", 1), 1);
    CHECK_EQ(lseek(fd, 3, SEEK_CUR), 4);
    CHECK_EQ(read(fd, buffer, 1), 1);
    CHECK_EQ(buffer[0], 'o');
    CHECK_ERR(lseek(fd, -1, SEEK_SET), EINVAL);
    CHECK_ERR(lseek(fd, 0, 99), EINVAL);
    puts("one position");

    int second = open("file", O_RDONLY);
    CHECK(second >= 0);
    CHECK_EQ(read(second, buffer, 100), 12);
    CHECK_EQ(memcmp(buffer, "Jello, world", 12), 0);
    puts("another open, another position");

    CHECK_EQ(lseek(fd, 9000, SEEK_SET), 9000);
    CHECK_EQ(read(fd, buffer, 10), 0);
    CHECK_EQ(write(fd, "end", 3), 3);
    CHECK_EQ(read(second, buffer, sizeof buffer), 9003 - 12);
    for (int i = 0; i < 9000 - 12; i++) CHECK_EQ(buffer[i], 0);
    CHECK_EQ(memcmp(buffer + 9000 - 12, "end", 3), 0);
    puts("a hole of zeroes");

    CHECK((fd = open("file", O_WRONLY | O_TRUNC)) >= 0);
    CHECK_EQ(lseek(second, 0, SEEK_END), 0);
    CHECK_EQ(write(fd, "", 0), 0);
    CHECK_ERR(read(fd, buffer, 1), EBADF);
    volatile uintptr_t bad = 8;
    CHECK_ERR(write(fd, (void *)bad, 5), EFAULT);
    CHECK_EQ(lseek(fd, 0, SEEK_END), 0);
    for (int i = 0; i < 1000; i++) CHECK_EQ(write(fd, "0123456789", 10), 10);
    CHECK_EQ(lseek(second, 0, SEEK_SET), 0);
    CHECK_EQ(read(second, buffer, sizeof buffer), 10000);
    CHECK_EQ(memcmp(buffer + 9990, "0123456789", 10), 0);
    puts("truncated and rewritten in 1000 small writes");

    FILE *f = fopen("text", "w+");
    for (int i = 0; i < 2000; i++) CHECK(fprintf(f, "line %d\n", i) > 0);
    rewind(f);
    int number, lines = 0;
    while (fscanf(f, "line %d\n", &number) == 1) CHECK_EQ(number, lines++);
    CHECK_EQ(fclose(f), 0);
    printf("%d lines through stdio\n", lines);
    return exit_success();
}
