// file_changes: files change in every way, a little at a time with pauses in between, and are what they must be after each
// pause: content, sizes, names, positions, modes, inode numbers.
#include "guest_dir.h"
#include <dirent.h>
#include <sys/sendfile.h>

enum { FILES = 6, ROUNDS = 150, CHANGES = 12, SIZE_MAX_ = 400000 };

struct model {
    bool is_there;
    size_t size;
    ino_t inode;
    mode_t mode;
    int fd;         // open for writing only, or -1
    off_t position; // of fd
    unsigned char content[SIZE_MAX_];
};
static struct model files[FILES];

static uint32_t seed = 1;
static uint32_t any(uint32_t below) {
    seed = seed * 1664525u + 1013904223u;
    return (uint32_t)(((uint64_t)seed * below) >> 32);
}

static const char *name(int k) {
    static char names[2][16];
    static int next;
    char *n = names[next ^= 1];
    sprintf(n, "file-%d", k);
    return n;
}

static unsigned char some[SIZE_MAX_];
static size_t fill(size_t room) {
    size_t n = 1 + any(room < 60000 ? (uint32_t)room : 60000);
    memset(some, (int)(1 + any(255)), n);
    return n;
}

static void grown(struct model *m, size_t to) {
    if (to > m->size) {
        memset(m->content + m->size, 0, to - m->size);
        m->size = to;
    }
}

static void put(struct model *m, size_t at, size_t n) {
    grown(m, at + n);
    memcpy(m->content + at, some, n);
}

static void cut(struct model *m, size_t to) {
    grown(m, to);
    m->size = to;
}

static void make(int k) {
    struct model *m = &files[k];
    struct stat st;
    int fd = open_new(name(k));
    CHECK_EQ(fstat(fd, &st), 0);
    *m = (struct model){.is_there = true, .inode = st.st_ino, .mode = st.st_mode & 0777, .fd = -1};
    CHECK_EQ(close(fd), 0);
}

static void forget(struct model *m) {
    if (m->fd >= 0) CHECK_EQ(close(m->fd), 0);
    m->fd = -1;
    m->is_there = false;
}

static void change(void) {
    int k = (int)any(FILES);
    struct model *m = &files[k];
    if (!m->is_there) {
        make(k);
        return;
    }
    size_t at = any((uint32_t)m->size + 20000) % (SIZE_MAX_ - 60001), n = fill(SIZE_MAX_ - at);
    int fd;
    switch (any(17)) {
    case 0: // where it stands
        if (m->fd < 0) {
            CHECK((m->fd = open(name(k), O_WRONLY)) >= 0);
            CHECK_EQ(lseek(m->fd, (off_t)at, SEEK_SET), (off_t)at);
            m->position = (off_t)at;
        }
        if ((size_t)m->position + n > SIZE_MAX_) {
            CHECK_EQ(close(m->fd), 0);
            m->fd = -1;
            break;
        }
        CHECK_EQ(write(m->fd, some, n), (ssize_t)n);
        put(m, (size_t)m->position, n);
        m->position += (off_t)n;
        break;
    case 1:
    case 2:
        CHECK((fd = open(name(k), O_RDWR)) >= 0);
        CHECK_EQ(pwrite(fd, some, n, (off_t)at), (ssize_t)n);
        put(m, at, n);
        CHECK_EQ(close(fd), 0);
        break;
    case 3: {
        struct iovec { void *base; size_t len; } v[2] = {{some, n / 2}, {some + n / 2, n - n / 2}};
        CHECK((fd = open(name(k), O_WRONLY)) >= 0);
        CHECK_EQ(lseek(fd, (off_t)at, SEEK_SET), (off_t)at);
        CHECK_EQ(syscall(20 /* writev */, fd, v, 2), (long)n);
        put(m, at, n);
        CHECK_EQ(close(fd), 0);
        break;
    }
    case 4:
        if (m->size + n > SIZE_MAX_) break;
        CHECK((fd = open(name(k), O_WRONLY | O_APPEND)) >= 0);
        CHECK_EQ(write(fd, some, n), (ssize_t)n);
        put(m, m->size, n);
        CHECK_EQ(close(fd), 0);
        break;
    case 5:
        CHECK_EQ(truncate(name(k), (off_t)at), 0);
        cut(m, at);
        break;
    case 6:
        CHECK((fd = open(name(k), O_WRONLY)) >= 0);
        CHECK_EQ(ftruncate(fd, (off_t)(at / 2)), 0);
        cut(m, at / 2);
        CHECK_EQ(close(fd), 0);
        break;
    case 7:
        CHECK((fd = open(name(k), O_WRONLY | O_TRUNC)) >= 0);
        m->size = 0;
        CHECK_EQ(write(fd, some, n), (ssize_t)n);
        put(m, 0, n);
        CHECK_EQ(close(fd), 0);
        break;
    case 8:
        CHECK_EQ(unlink(name(k)), 0);
        forget(m);
        break;
    case 9: { // over another one
        int to = (int)any(FILES);
        if (to == k) break;
        CHECK_EQ(rename(name(k), name(to)), 0);
        forget(&files[to]);
        files[to] = *m;
        m->fd = -1;
        m->is_there = false;
        break;
    }
    case 10: { // a part of another one
        int from = (int)any(FILES);
        if (from == k || !files[from].is_there || files[from].size < 2) break;
        size_t half = files[from].size / 2;
        if (half > SIZE_MAX_ - at) break;
        int in = open(name(from), O_RDONLY);
        CHECK(in >= 0 && (fd = open(name(k), O_WRONLY)) >= 0);
        CHECK_EQ(lseek(fd, (off_t)at, SEEK_SET), (off_t)at);
        CHECK_EQ(sendfile(fd, in, NULL, half), (ssize_t)half);
        memcpy(some, files[from].content, half);
        put(m, at, half);
        loff_t begin = 0, end = (loff_t)at;
        CHECK_EQ(copy_file_range(in, &begin, fd, &end, half, 0), (ssize_t)half);
        CHECK(close(in) == 0 && close(fd) == 0);
        break;
    }
    case 11:
        m->mode = (m->mode ^ 0040) & 0777;
        CHECK_EQ(chmod(name(k), m->mode), 0);
        break;
    case 12:
        CHECK((fd = open(name(k), O_RDWR)) >= 0);
        if (m->size > 0 && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)n) == 0 && at < m->size)
            memset(m->content + at, 0, at + n < m->size ? n : m->size - at);
        CHECK_EQ(close(fd), 0);
        break;
    case 13:
        CHECK((fd = open(name(k), O_RDWR)) >= 0);
        CHECK_EQ(posix_fallocate(fd, (off_t)at, (off_t)n), 0);
        grown(m, at + n);
        CHECK_EQ(close(fd), 0);
        break;
    case 14:
        CHECK(mkdir("dir", 0755) == 0 || errno == EEXIST);
        if (link(name(k), "dir/same") == 0) CHECK_EQ(unlink("dir/same"), 0);
        CHECK_EQ(symlink(name(k), "dir/link"), 0);
        break;
    case 15:
        CHECK(unlink("dir/link") == 0 || errno == ENOENT);
        CHECK(rmdir("dir") == 0 || errno == ENOENT);
        break;
    default: // and opened again
        if (m->fd >= 0) CHECK_EQ(close(m->fd), 0);
        m->fd = -1;
    }
    // A link that is there says "exists" the next time.
    if (unlink("dir/link") == -1) CHECK(errno == ENOENT);
}

static void look(void) {
    static unsigned char found[SIZE_MAX_];
    for (int k = 0; k < FILES; k++) {
        struct model *m = &files[k];
        struct stat st;
        if (!m->is_there) {
            CHECK_ERR(stat(name(k), &st), ENOENT);
            continue;
        }
        CHECK_EQ(stat(name(k), &st), 0);
        CHECK_EQ(st.st_ino, m->inode);
        CHECK_EQ(st.st_size, (off_t)m->size);
        CHECK_EQ(st.st_mode & 0777, m->mode);
        int fd = open(name(k), O_RDONLY);
        CHECK(fd >= 0);
        for (size_t have = 0; have < m->size;) {
            ssize_t n = read(fd, found + have, m->size - have);
            CHECK(n > 0);
            have += (size_t)n;
        }
        CHECK_EQ(memcmp(found, m->content, m->size), 0);
        CHECK_EQ(close(fd), 0);
        if (m->fd >= 0) CHECK_EQ(lseek(m->fd, 0, SEEK_CUR), m->position);
    }
}

int main(void) {
    guest_dir_enter();
    for (int k = 0; k < FILES; k++) make(k);
    uint32_t sum = 0;
    for (int round = 0; round < ROUNDS; round++) {
        for (int n = 0; n < CHANGES; n++) change();
        CHECK_EQ(nanosleep(&(struct timespec){0, 1000000}, NULL), 0);
        look();
    }
    for (int k = 0; k < FILES; k++)
        for (size_t n = 0; n < files[k].size; n++) sum = sum * 31 + files[k].content[n];
    printf("%08x\n", sum);
    return exit_success();
}
