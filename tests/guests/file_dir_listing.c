// file_dir_listing: a directory listing shows every entry once, with the right kind and inode, again after rewinddir,
// and from a telldir mark on after seekdir; big directories need several calls. Order is the file system's affair, but
// must be the same for the same handle: after a takeover a half-read listing goes on.
#include "guest_dir.h"
#include <dirent.h>

enum { FILES = 500 };

static int compare(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

int main(void) {
    static char *names[FILES + 10], first_pass[FILES + 10][32];
    char name[32];
    struct stat st;
    struct dirent *entry;
    int count = 0;
    guest_dir_enter();
    for (int i = 0; i < FILES; i++) {
        sprintf(name, "file-%03d", i);
        CHECK_EQ(close(open_new(name)), 0);
    }
    CHECK_EQ(mkdir("dir", 0755), 0);
    CHECK_EQ(symlink("dir", "link"), 0);

    DIR *dir = opendir(".");
    CHECK(dir != NULL);
    for (errno = 0; (entry = readdir(dir)) != NULL; count++) {
        CHECK(count < FILES + 10);
        strcpy(first_pass[count], entry->d_name);
        names[count] = first_pass[count];
        CHECK_EQ(lstat(entry->d_name, &st), 0);
        if (strcmp(entry->d_name, "..") != 0) CHECK_EQ(entry->d_ino, st.st_ino);
        CHECK(entry->d_type == DT_UNKNOWN || entry->d_type == IFTODT(st.st_mode));
    }
    CHECK_EQ(errno, 0);
    CHECK_EQ(count, FILES + 4);

    rewinddir(dir);
    long mark = -1;
    for (int i = 0; i < count; i++) {
        if (i == count / 2) mark = telldir(dir);
        CHECK((entry = readdir(dir)) != NULL);
        CHECK_EQ(strcmp(entry->d_name, first_pass[i]), 0);
    }
    CHECK(readdir(dir) == NULL);
    seekdir(dir, mark);
    for (int i = count / 2; i < count; i++) {
        CHECK((entry = readdir(dir)) != NULL);
        CHECK_EQ(strcmp(entry->d_name, first_pass[i]), 0);
    }
    puts("the same again after rewinddir and from a mark");

    qsort(names, (size_t)count, sizeof *names, compare);
    CHECK(strcmp(names[0], ".") == 0 && strcmp(names[1], "..") == 0 && strcmp(names[2], "dir") == 0);
    for (int i = 0; i < FILES; i++) {
        sprintf(name, "file-%03d", i);
        CHECK_EQ(strcmp(names[3 + i], name), 0);
    }
    CHECK_EQ(strcmp(names[count - 1], "link"), 0);
    printf("%d entries, each once\n", count);

    for (int i = 0; i < FILES; i += 2) {
        sprintf(name, "file-%03d", i);
        CHECK_EQ(unlink(name), 0);
    }
    rewinddir(dir);
    for (count = 0; readdir(dir) != NULL; count++) {}
    printf("%d after half the files went\n", count);
    CHECK_EQ(closedir(dir), 0);
    CHECK(opendir("file-001") == NULL && errno == ENOTDIR);
    CHECK(opendir("none") == NULL && errno == ENOENT);
    return exit_success();
}
