// proc_self: a program reads about itself in /proc: status, maps, exe, fd, stat, cmdline, and about the machine in
// cpuinfo and meminfo. What it finds fits what it knows: allocators and runtimes parse these at start.
#include "check.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>

static char text[1 << 20];

// The whole file, read in small pieces.
static const char *slurp(const char *path) {
    size_t total = 0;
    ssize_t n;
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0);
    while ((n = read(fd, text + total, 1000)) > 0) {
        total += (size_t)n;
        CHECK(total < sizeof text - 1000);
    }
    CHECK_EQ(n, 0);
    CHECK_EQ(close(fd), 0);
    text[total] = 0;
    return text;
}

// Is this address in a mapping with these rights?
static bool mapped(const void *address, const char *rights) {
    for (const char *line = slurp("/proc/self/maps"); *line; line = strchr(line, '\n') + 1) {
        unsigned long start, end;
        char have[5];
        CHECK_EQ(sscanf(line, "%lx-%lx %4s", &start, &end, have), 3);
        if ((unsigned long)address >= start && (unsigned long)address < end) return memcmp(have, rights, 3) == 0;
    }
    return false;
}

int main(int argc, char **argv) {
    char path[PATH_MAX] = {0}, link[64];
    int on_stack, pid;
    static int data;
    const char *at = slurp("/proc/self/status");
    CHECK_EQ(strncmp(at, "Name:\tproc_self\n", 16), 0);
    CHECK((at = strstr(text, "\nThreads:")) != NULL);
    CHECK(strstr(text, "\nVmRSS:") && strstr(text, "\nSigCgt:") && strstr(text, "\nUid:"));
    CHECK_EQ(sscanf(slurp("/proc/self/stat"), "%d (proc_self) ", &pid), 1);
    puts("status, stat");

    CHECK(mapped((void *)main, "r-x"));
    CHECK(mapped(&data, "rw-"));
    CHECK(mapped(&on_stack, "rw-"));
    CHECK(mapped(malloc(100), "rw-"));
    CHECK(!mapped((void *)16, "rw-"));
    puts("maps");

    CHECK(readlink("/proc/self/exe", path, sizeof path - 1) > 0);
    CHECK_EQ(strcmp(strrchr(path, '/'), "/proc_self"), 0);
    CHECK_EQ(access(path, X_OK), 0);
    CHECK_EQ(strcmp(slurp("/proc/self/cmdline"), argv[0]), 0);
    CHECK_EQ(strcmp(slurp("/proc/self/comm"), "proc_self\n"), 0);
    int fd = open("/dev/null", O_RDONLY);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    memset(path, 0, sizeof path);
    CHECK_EQ(readlink(link, path, sizeof path - 1), 9);
    CHECK_EQ(strcmp(path, "/dev/null"), 0);
    DIR *dir = opendir("/proc/self/fd");
    bool found = false;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) found |= atoi(entry->d_name) == fd;
    CHECK(found);
    CHECK_EQ(closedir(dir), 0);
    puts("exe, cmdline, comm, fd");

    CHECK(strstr(slurp("/proc/cpuinfo"), "processor\t: 0") != NULL);
    CHECK(strstr(slurp("/proc/meminfo"), "MemTotal:") == text);
    CHECK(atoi(slurp("/proc/sys/net/core/somaxconn")) > 0);
    CHECK(strchr("012", slurp("/proc/sys/vm/overcommit_memory")[0]) != NULL);
    CHECK_ERR(open("/proc/self/none", O_RDONLY), ENOENT);
    puts("cpuinfo, meminfo, sys");
    return argc == 1 ? exit_success() : 1;
}
