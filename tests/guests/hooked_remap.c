// hooked_remap: code with system calls in it is made writable, rewritten, unmapped, moved, discarded and replaced after it
// ran many times: what runs is always what is mapped, and what is read is what the file has.
#include "check.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

// The number can be found and changed: `mov $number, %eax; syscall; ret`.
__asm__(".text\n.balign 16\n.type ask, @function\nask:\n.cfi_startproc\n mov $110, %eax\n syscall\n ret\n.cfi_endproc\n"
        ".size ask, .-ask\n");
int ask(void);
extern const char __executable_start;

#define SITE_BYTES 8
static int file;
static size_t length;
static off_t offset;
static unsigned char own[SITE_BYTES];

static char *place(unsigned n) { return (char *)0x600000000000 + n * 0x10000000ul; }

static char *copy_at(char *at) {
    CHECK(mmap(at, length, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, file, 0) == at);
    return at;
}

static void ask_often(char *copy, int want) {
    int (*f)(void) = (int (*)(void))(copy + offset);
    for (int i = 0; i < 10; i++) CHECK_EQ(f(), want);
}

static void check_own(char *copy) { CHECK_EQ(memcmp(copy + offset, own, SITE_BYTES), 0); }

int main(int argc, char **argv) {
    (void)argc;
    struct stat s;
    file = open(argv[0], O_RDONLY);
    CHECK(file >= 0 && fstat(file, &s) == 0);
    length = (s.st_size + 4095) & ~4095;
    offset = (const char *)ask - &__executable_start;
    CHECK_EQ(pread(file, own, SITE_BYTES, offset), SITE_BYTES);
    CHECK_EQ(own[0], 0xb8);
    const int parent = getppid(), self = getpid();

    char *copy = copy_at(place(0));
    ask_often(copy, parent);
    CHECK_EQ(mprotect(copy, length, PROT_READ | PROT_WRITE | PROT_EXEC), 0);
    check_own(copy);
    ask_often(copy, parent);
    copy[offset + 1] = SYS_getpid;
    ask_often(copy, self);
    CHECK_EQ(mprotect(copy, length, PROT_READ | PROT_EXEC), 0);
    ask_often(copy, self);
    puts("made writable, and changed");

    copy = copy_at(place(1));
    ask_often(copy, parent);
    CHECK(mmap(copy, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == copy);
    memcpy(copy + offset, "\xb8\x2a\0\0\0\xc3", 6); // mov $42, %eax; ret
    CHECK_EQ(mprotect(copy, length, PROT_READ | PROT_EXEC), 0);
    ask_often(copy, 42);
    CHECK_EQ(munmap(copy, length), 0);
    ask_often(copy_at(copy), parent);
    CHECK_EQ(munmap(copy, length), 0);
    ask_often(copy_at(copy), parent);
    puts("replaced, and unmapped");

    CHECK_EQ(madvise(copy, length, MADV_DONTNEED), 0);
    check_own(copy);
    ask_often(copy, parent);
    char *other = mremap(copy, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, place(2));
    CHECK(other == place(2));
    check_own(other);
    ask_often(other, parent);
    CHECK_EQ(mprotect(other, length, PROT_READ), 0);
    check_own(other);
    CHECK_EQ(mprotect(other, length, PROT_READ | PROT_EXEC), 0);
    ask_often(other, parent);
    puts("discarded, moved, and not executable for a while");

    // Where a jump leads that the file doesn't have, if there is one: that memory isn't the program's to use, but what
    // it maps there stays what it is, and the call goes on.
    for (int i = 0; i < 2; i++) {
        const unsigned char *site = (unsigned char *)other + offset;
        int32_t distance;
        memcpy(&distance, site + 1, 4);
        char *stub = (char *)((uintptr_t)(site + 5 + distance) & ~4095ul);
        if (site[0] == own[0]) stub = place(3);
        if (i == 0) {
            CHECK_EQ(munmap(stub, 4096), 0);
        } else {
            CHECK(mmap(stub, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == stub);
            memset(stub, 0x5a, 4096);
        }
        ask_often(other, parent);
        for (int k = 0; i == 1 && k < 4096; k++) CHECK_EQ(stub[k], 0x5a);
    }
    puts("what it jumps to taken away");
    return exit_success();
}
