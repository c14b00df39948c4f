// rlimits: limits are read, lowered and enforced: too many descriptors is EMFILE, too large a file EFBIG with SIGXFSZ,
// too much address space ENOMEM; a soft limit above the hard one is refused. Servers size their tables by them.
#include "guest_dir.h"
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>

static volatile int too_large;
static void on_xfsz(int signal) { (void)signal, too_large++; }

int main(void) {
    struct rlimit limit, old, same;
    int fds[2], last = -1, fd;
    guest_dir_enter();
    int file = open_new("file");
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
    CHECK_EQ(prlimit(0, RLIMIT_NOFILE, NULL, &same), 0);
    CHECK(old.rlim_cur == same.rlim_cur && old.rlim_max == same.rlim_max && old.rlim_cur <= old.rlim_max);
    limit = (struct rlimit){200, old.rlim_max};
    CHECK_EQ(prlimit(getpid(), RLIMIT_NOFILE, &limit, &same), 0);
    CHECK_EQ(same.rlim_cur, old.rlim_cur);
    CHECK_EQ(sysconf(_SC_OPEN_MAX), 200);
    while ((fd = open("/dev/null", O_RDONLY)) >= 0) last = fd;
    CHECK(errno == EMFILE && last == 199);
    CHECK_ERR(socket(AF_INET, SOCK_STREAM, 0), EMFILE);
    CHECK_ERR(pipe(fds), EMFILE);
    CHECK_ERR(dup(0), EMFILE);
    CHECK_ERR(dup2(0, 200), EBADF);
    CHECK_EQ(close(150), 0);
    CHECK_ERR(pipe(fds), EMFILE); // it needs two
    CHECK_EQ(dup(0), 150);
    puts("NOFILE: EMFILE at 200");
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
    CHECK_EQ(dup(0), 200);

    limit = (struct rlimit){10000, 5000};
    CHECK_ERR(setrlimit(RLIMIT_CORE, &limit), EINVAL);
    CHECK_ERR(getrlimit(99, &limit), EINVAL);
    CHECK(signal(SIGXFSZ, on_xfsz) != SIG_ERR);
    CHECK_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
    limit = (struct rlimit){1000, old.rlim_max};
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    CHECK_EQ(pwrite(file, "0123456789", 10, 995), 5);
    CHECK_ERR(pwrite(file, "x", 1, 1000), EFBIG);
    CHECK_EQ(too_large, 1);
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
    puts("FSIZE: EFBIG at 1000");

    CHECK_EQ(getrlimit(RLIMIT_AS, &old), 0);
    void *large = mmap(NULL, 1 << 30, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(large != MAP_FAILED);
    limit = (struct rlimit){1 << 30, old.rlim_max};
    CHECK_EQ(setrlimit(RLIMIT_AS, &limit), 0);
    CHECK_ERR(mmap(NULL, 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM);
    CHECK_EQ(setrlimit(RLIMIT_AS, &old), 0);
    puts("AS: ENOMEM above 1 GB");
    return exit_success();
}
