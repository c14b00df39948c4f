// Where file programs work: $GUEST_DIR/<program> (which stays, so that a harness can compare two hosts' files),
// or without GUEST_DIR a fresh directory under /tmp, removed at exit.
#ifndef GUEST_DIR_H
#define GUEST_DIR_H
#include "check.h"
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <sys/stat.h>

static char guest_dir_to_remove[PATH_MAX];

static int guest_dir_remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static void guest_dir_remove(void) {
    if (chdir("/") == 0) nftw(guest_dir_to_remove, guest_dir_remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

// Makes the directory and enters it. GUEST_DIR must not hold an earlier run's directory of the same program.
static inline void guest_dir_enter(void) {
    const char *base = getenv("GUEST_DIR");
    if (base != NULL) {
        CHECK_EQ(chdir(base), 0);
        CHECK_EQ(mkdir(program_invocation_short_name, 0755), 0);
        CHECK_EQ(chdir(program_invocation_short_name), 0);
        return;
    }
    strcpy(guest_dir_to_remove, "/tmp/ft-guest-XXXXXX");
    CHECK(mkdtemp(guest_dir_to_remove) != NULL);
    CHECK_EQ(chdir(guest_dir_to_remove), 0);
    CHECK_EQ(atexit(guest_dir_remove), 0);
}

static inline int open_new(const char *path) {
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0644);
    CHECK(fd >= 0);
    return fd;
}

#endif
