// mprotect_syscall: a program may write code that makes system calls itself, run it, change it and run it again. A shim
// that rewrites call sites must catch these too, and must not trip over code that is rewritten by its owner.
#include "check.h"
#include <sys/mman.h>
#include <sys/syscall.h>

// long call(long a, long b, long c): mov eax, nr; syscall; ret
static unsigned char code[] = {0xb8, 0, 0, 0, 0, 0x0f, 0x05, 0xc3};

int main(void) {
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    long (*call)(long, long, long) = (void *)page;
    int fds[2];
    char buffer[4];
    CHECK_EQ(pipe(fds), 0);

    for (int round = 0; round < 3; round++) {
        code[1] = SYS_getpid;
        CHECK_EQ(mprotect(page, 4096, PROT_READ | PROT_WRITE), 0);
        memcpy(page, code, sizeof code);
        CHECK_EQ(mprotect(page, 4096, PROT_READ | PROT_EXEC), 0);
        for (int i = 0; i < 100; i++) CHECK_EQ(call(0, 0, 0), getpid());

        code[1] = SYS_write;
        CHECK_EQ(mprotect(page, 4096, PROT_READ | PROT_WRITE), 0);
        memcpy(page, code, sizeof code);
        CHECK_EQ(mprotect(page, 4096, PROT_READ | PROT_EXEC), 0);
        CHECK_EQ(call(fds[1], (long)"abc", 3), 3);
        CHECK_EQ(read(fds[0], buffer, 4), 3);
        CHECK_EQ(memcmp(buffer, "abc", 3), 0);
        CHECK_EQ(call(777, (long)"abc", 3), -EBADF); // raw: the error is in the result
    }
    puts("own system calls in own code, rewritten three times");
    return exit_success();
}
