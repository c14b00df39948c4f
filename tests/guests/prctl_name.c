// prctl_name: the process name is cut to 15 bytes, read back, shown in /proc, and belongs to the thread; other prctl
// values come back as set. Servers name their workers with it.
#include "check.h"
#include <signal.h>
#include <sys/prctl.h>

static void *other_name(void *arg) {
    char name[16];
    CHECK_EQ(prctl(PR_GET_NAME, name), 0);
    CHECK_EQ(strcmp(name, "a-name-that-is-"), 0); // inherited
    CHECK_EQ(prctl(PR_SET_NAME, "thread"), 0);
    CHECK_EQ(prctl(PR_GET_NAME, name), 0);
    CHECK_EQ(strcmp(name, "thread"), 0);
    return arg;
}

int main(void) {
    char name[17] = "################";
    int value = 0;
    CHECK_EQ(prctl(PR_GET_NAME, name), 0);
    CHECK(strcmp(name, "prctl_name") == 0 && name[16] == 0);
    CHECK_EQ(prctl(PR_SET_NAME, "a-name-that-is-too-long"), 0);
    CHECK_EQ(prctl(PR_GET_NAME, name), 0);
    CHECK_EQ(strcmp(name, "a-name-that-is-"), 0);
    join(spawn(other_name, NULL));
    CHECK_EQ(prctl(PR_GET_NAME, name), 0);
    CHECK_EQ(strcmp(name, "a-name-that-is-"), 0);
    FILE *f = fopen("/proc/self/comm", "r");
    CHECK(f != NULL && fgets(name, sizeof name, f) != NULL);
    CHECK_EQ(strcmp(name, "a-name-that-is-\n"), 0);
    puts("names");

    CHECK_EQ(prctl(PR_SET_PDEATHSIG, SIGTERM), 0);
    CHECK_EQ(prctl(PR_GET_PDEATHSIG, &value), 0);
    CHECK_EQ(value, SIGTERM);
    CHECK_EQ(prctl(PR_SET_PDEATHSIG, 0), 0);
    CHECK_EQ(prctl(PR_GET_DUMPABLE), 1);
    CHECK_EQ(prctl(PR_SET_KEEPCAPS, 1), 0);
    CHECK_EQ(prctl(PR_GET_KEEPCAPS), 1);
    CHECK_ERR(prctl(PR_SET_PDEATHSIG, 99), EINVAL);
    CHECK_ERR(prctl(987654, 0, 0, 0, 0), EINVAL);
    puts("death signal, dumpable, keepcaps");
    return exit_success();
}
