// getrusage: CPU time grows while computing and never goes back, memory and faults are counted, children start at
// nothing; times() and clock() tell the same story. Servers log it and limit themselves by it.
#include "check.h"
#include <sys/resource.h>
#include <sys/times.h>

static volatile long sink;

static int64_t cpu_us(int who) {
    struct rusage u;
    CHECK_EQ(getrusage(who, &u), 0);
    return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000ll + u.ru_utime.tv_usec + u.ru_stime.tv_usec;
}

static void *burn(void *arg) {
    int64_t start = cpu_us(RUSAGE_THREAD);
    while (cpu_us(RUSAGE_THREAD) < start + 10000)
        for (int i = 0; i < 10000; i++) sink += i;
    return arg;
}

int main(void) {
    struct rusage usage;
    struct tms tms;
    int64_t start = cpu_us(RUSAGE_SELF), last = start;
    while (last < start + 10000) {
        for (int i = 0; i < 10000; i++) sink += i;
        int64_t now = cpu_us(RUSAGE_SELF);
        CHECK(now >= last);
        last = now;
    }
    puts("CPU time grows");
    join(spawn(burn, NULL));
    CHECK(cpu_us(RUSAGE_SELF) >= last + 10000 - 1000); // rounding of the split in user and system time
    CHECK(cpu_us(RUSAGE_THREAD) <= cpu_us(RUSAGE_SELF) + 1000);
    puts("the process's includes its threads'");

    CHECK_EQ(getrusage(RUSAGE_SELF, &usage), 0);
    CHECK(usage.ru_maxrss > 100 && usage.ru_minflt > 0);
    char *memory = malloc(30 << 20);
    memset(memory, 1, 30 << 20);
    __asm__ volatile("" : : "r"(memory) : "memory"); // or gcc drops it all
    CHECK_EQ(getrusage(RUSAGE_SELF, &usage), 0);
    CHECK(usage.ru_maxrss >= 30 << 10); // in kB
    free(memory);
    CHECK_EQ(getrusage(RUSAGE_CHILDREN, &usage), 0);
    CHECK(usage.ru_utime.tv_sec == 0 && usage.ru_utime.tv_usec == 0 && usage.ru_maxrss == 0);
    puts("memory, faults, no children");

    CHECK(times(&tms) != (clock_t)-1);
    CHECK(tms.tms_cutime == 0 && tms.tms_utime + tms.tms_stime >= 0);
    CHECK(clock() >= 10000);
    CHECK_ERR(getrusage(77, &usage), EINVAL);
    return exit_success();
}
