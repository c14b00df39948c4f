// ids: process, thread, group and user ids are consistent with each other, the same in all threads and every time, and
// usable in calls that take one. They may be virtual: a pid file written with them must still lead to the process.
#include "check.h"
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <sys/fsuid.h>
#include <sys/resource.h>

static pid_t pid;

static void *same_in_thread(void *arg) {
    CHECK_EQ(getpid(), pid);
    CHECK(gettid() != pid);
    CHECK_EQ(getppid(), (intptr_t)arg);
    return arg;
}

int main(void) {
    uid_t r, e, s;
    gid_t groups[100];
    pid = getpid();
    CHECK(pid > 0);
    CHECK_EQ(gettid(), pid);
    for (int i = 0; i < 100; i++) CHECK_EQ(getpid(), pid);
    join(spawn(same_in_thread, (void *)(intptr_t)getppid()));
    CHECK_EQ(kill(pid, 0), 0);
    CHECK_EQ(getpgid(0), getpgrp());
    CHECK_EQ(getpgid(pid), getpgrp());
    CHECK_EQ(getsid(0), getsid(pid));
    CHECK_EQ(sched_getscheduler(pid), sched_getscheduler(0));
    errno = 0;
    CHECK(getpriority(PRIO_PROCESS, pid) == getpriority(PRIO_PROCESS, 0) && errno == 0);
    CHECK_ERR(kill(0x3ffffff0, 0), ESRCH);
    puts("process");

    CHECK_EQ(getresuid(&r, &e, &s), 0);
    CHECK(r == getuid() && e == geteuid());
    CHECK_EQ(getresgid(&r, &e, &s), 0);
    CHECK(r == getgid() && e == getegid());
    CHECK_EQ(setfsuid((uid_t)-1), geteuid());
    int count = getgroups(0, NULL);
    CHECK(count >= 0);
    CHECK_EQ(getgroups(100, groups), count);
    puts("user and groups");

    if (geteuid() == 0) { // drop and regain, as servers do around privileged steps
        CHECK_EQ(setegid(65534), 0);
        CHECK_EQ(seteuid(65534), 0);
        CHECK(geteuid() == 65534 && getegid() == 65534 && getuid() == 0);
        CHECK_ERR(setuid(12345), EPERM);
        CHECK_EQ(seteuid(0), 0);
        CHECK_EQ(setegid(0), 0);
    }
    CHECK_EQ(geteuid(), getuid());
    puts("privileges dropped and regained");
    return exit_success();
}
