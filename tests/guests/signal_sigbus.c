// signal_sigbus: touching a mapping beyond the end of its file is a SIGBUS (BUS_ADRERR) at that address; after the file
// has grown the same access works. Databases that map files meet this.
#include "guest_dir.h"
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

static sigjmp_buf out;
static char *volatile last_address;
static volatile int last_code;

static void on_bus(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    last_address = info->si_addr;
    last_code = info->si_code;
    siglongjmp(out, 1);
}

int main(void) {
    struct sigaction action = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO};
    guest_dir_enter();
    CHECK_EQ(sigaction(SIGBUS, &action, NULL), 0);
    int fd = open_new("short");
    CHECK_EQ(ftruncate(fd, 100), 0);
    char *map = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(map != MAP_FAILED);
    map[99] = 'a';
    map[4095] = 'b'; // within the last page: allowed, never in the file
    if (sigsetjmp(out, 1) == 0) {
        ((volatile char *)map)[5000] = 1;
        CHECK(!"wrote beyond the file");
    }
    CHECK(last_address == map + 5000 && last_code == BUS_ADRERR);
    puts("beyond the end: SIGBUS");

    CHECK_EQ(ftruncate(fd, 8192), 0);
    ((volatile char *)map)[5000] = 'c';
    char c = 0;
    CHECK_EQ(pread(fd, &c, 1, 5000), 1);
    CHECK_EQ(c, 'c');
    puts("after growing: written");
    return exit_success();
}
