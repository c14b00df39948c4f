// dev_files: /dev/null swallows, /dev/zero gives zeroes and can be mapped, /dev/full says ENOSPC. Servers redirect to
// them and tests fill disks with them.
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>

int main(void) {
    char buffer[1000];
    int null = open("/dev/null", O_RDWR), zero = open("/dev/zero", O_RDWR), full = open("/dev/full", O_RDWR);
    CHECK(null >= 0 && zero >= 0 && full >= 0);
    CHECK_EQ(write(null, buffer, 1000), 1000);
    CHECK_EQ(read(null, buffer, 1000), 0);
    CHECK_EQ(lseek(null, 100, SEEK_SET), 0);

    memset(buffer, 'x', sizeof buffer);
    CHECK_EQ(read(zero, buffer, 1000), 1000);
    for (int i = 0; i < 1000; i++) CHECK_EQ(buffer[i], 0);
    CHECK_EQ(write(zero, buffer, 1000), 1000);
    char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, zero, 0);
    CHECK(p != MAP_FAILED);
    CHECK_EQ(p[8191], 0);
    p[0] = 1;

    CHECK_ERR(write(full, buffer, 1), ENOSPC);
    CHECK_EQ(read(full, buffer, 10), 10);
    struct pollfd ready = {.fd = null, .events = POLLIN | POLLOUT};
    CHECK_EQ(poll(&ready, 1, -1), 1);
    CHECK_EQ(ready.revents, POLLIN | POLLOUT);
    puts("null, zero, full");
    return exit_success();
}
