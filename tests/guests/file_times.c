// file_times: times set by utimensat come back to the nanosecond (as far as the file system keeps them), UTIME_OMIT
// keeps one, and a write moves mtime on, never back. Caches and build tools compare them.
#include "guest_dir.h"

static int64_t ns_of(struct timespec t) { return t.tv_sec * NS_PER_S + t.tv_nsec; }

int main(void) {
    struct stat st;
    guest_dir_enter();
    int fd = open_new("file");
    struct timespec times[2] = {{1000000000, 123456789}, {1100000000, 987654321}};
    CHECK_EQ(utimensat(AT_FDCWD, "file", times, 0), 0);
    CHECK_EQ(fstat(fd, &st), 0);
    CHECK(st.st_atim.tv_sec == 1000000000 && st.st_mtim.tv_sec == 1100000000);
    CHECK(st.st_mtim.tv_nsec == 987654321 || st.st_mtim.tv_nsec % 1000 == 0);
    CHECK(st.st_ctim.tv_sec > 1100000000);
    puts("set and read back");

    times[0].tv_nsec = UTIME_OMIT;
    times[1] = (struct timespec){1200000000, 0};
    CHECK_EQ(futimens(fd, times), 0);
    CHECK_EQ(fstat(fd, &st), 0);
    CHECK(st.st_atim.tv_sec == 1000000000 && st.st_mtim.tv_sec == 1200000000);
    puts("one kept, one set");

    int64_t last = ns_of(st.st_mtim);
    CHECK_EQ(write(fd, "x", 1), 1);
    CHECK_EQ(fstat(fd, &st), 0);
    CHECK(ns_of(st.st_mtim) > last); // long after 2008
    for (int i = 0; i < 5; i++) {
        last = ns_of(st.st_mtim);
        sleep_ms(15); // more than a tick
        CHECK_EQ(write(fd, "x", 1), 1);
        CHECK_EQ(fstat(fd, &st), 0);
        CHECK(ns_of(st.st_mtim) > last);
    }
    puts("writes move mtime on");

    CHECK_EQ(utimensat(AT_FDCWD, "file", NULL, 0), 0); // now
    CHECK_EQ(fstat(fd, &st), 0);
    CHECK(ns_of(st.st_mtim) >= last);
    CHECK_ERR(utimensat(AT_FDCWD, "none", NULL, 0), ENOENT);
    times[1].tv_nsec = NS_PER_S;
    CHECK_ERR(futimens(fd, times), EINVAL);
    return exit_success();
}
