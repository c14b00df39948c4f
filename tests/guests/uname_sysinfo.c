// uname_sysinfo: what programs ask about the machine is plausible and consistent: system, release, host name, memory,
// processors, uptime, page size. Thread pools and caches are sized by it, so both hosts must hear the same.
#include "check.h"
#include <sched.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

int main(void) {
    struct utsname name, again;
    struct sysinfo info;
    char host[256];
    int major, minor;
    CHECK_EQ(uname(&name), 0);
    CHECK_EQ(uname(&again), 0);
    CHECK_EQ(memcmp(&name, &again, sizeof name), 0);
    CHECK(strcmp(name.sysname, "Linux") == 0 && strcmp(name.machine, "x86_64") == 0);
    CHECK_EQ(sscanf(name.release, "%d.%d", &major, &minor), 2);
    CHECK(major >= 4);
    CHECK_EQ(gethostname(host, sizeof host), 0);
    CHECK_EQ(strcmp(host, name.nodename), 0);
    puts("uname and gethostname");

    CHECK_EQ(sysinfo(&info), 0);
    CHECK(info.mem_unit > 0 && info.totalram > 0 && info.freeram <= info.totalram && info.procs > 0);
    CHECK((uint64_t)info.totalram * info.mem_unit > 10 << 20);
    int64_t boot_s = now_ns(CLOCK_BOOTTIME) / NS_PER_S;
    CHECK(info.uptime > 0 && info.uptime <= boot_s + 1 && boot_s - info.uptime < 60);
    puts("sysinfo");

    cpu_set_t cpus;
    long online = sysconf(_SC_NPROCESSORS_ONLN), configured = sysconf(_SC_NPROCESSORS_CONF);
    CHECK(online >= 1 && configured >= online);
    CHECK_EQ(get_nprocs(), online);
    CHECK_EQ(sched_getaffinity(0, sizeof cpus, &cpus), 0);
    CHECK(CPU_COUNT(&cpus) >= 1 && CPU_COUNT(&cpus) <= configured);
    int cpu = sched_getcpu();
    CHECK(cpu >= 0 && cpu < configured);
    CHECK_EQ(sysconf(_SC_PAGESIZE), 4096);
    CHECK_EQ(getpagesize(), 4096);
    CHECK_EQ(sysconf(_SC_CLK_TCK), 100);
    CHECK(sysconf(_SC_PHYS_PAGES) > 0);
    CHECK(sysconf(_SC_OPEN_MAX) > 16);
    puts("processors, pages, ticks");
    return exit_success();
}
