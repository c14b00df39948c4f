// signal_fp_state: x87, SSE and AVX registers and the rounding mode survive a handler that uses them all, and a timer
// signal in the middle of a computation. A frame without the xsave state corrupts sums silently.
#include "check.h"
#include <signal.h>
#include <sys/time.h>
#include <xmmintrin.h>

static volatile int runs;

static void clobber(int signal) {
    (void)signal;
    runs++;
    _MM_SET_ROUNDING_MODE(_MM_ROUND_UP);
    // not declared as clobbers: it is the signal frame that has to save them
    __asm__ volatile("fninit\n fldpi\n fldpi\n fldl2e\n"
                     "pcmpeqd %%xmm0, %%xmm0\n pcmpeqd %%xmm7, %%xmm7\n pcmpeqd %%xmm15, %%xmm15\n" ::: "memory");
    if (__builtin_cpu_supports("avx")) __asm__ volatile("vzeroall");
}

static void check_across_handler(void) {
    static const double in[4] = {1.25, -7.5, 3.75, 1e300};
    double xmm0[2], xmm15[2], x87, ymm3[4];
    _MM_SET_ROUNDING_MODE(_MM_ROUND_DOWN);
    __asm__ volatile("fld1\n movupd %[in], %%xmm0\n movupd %[in], %%xmm15\n"
                     "int3\n" // SIGTRAP: no call, so nothing but the frame saves registers
                     "movupd %%xmm0, %[xmm0]\n movupd %%xmm15, %[xmm15]\n fstpl %[x87]\n"
                     : [xmm0] "=m"(xmm0), [xmm15] "=m"(xmm15), [x87] "=m"(x87)
                     : [in] "m"(in)
                     : "xmm0", "xmm15", "memory");
    CHECK(memcmp(in, xmm0, 16) == 0 && memcmp(in, xmm15, 16) == 0 && x87 == 1.0);
    CHECK_EQ(_MM_GET_ROUNDING_MODE(), _MM_ROUND_DOWN);
    _MM_SET_ROUNDING_MODE(_MM_ROUND_NEAREST);
    if (__builtin_cpu_supports("avx")) {
        __asm__ volatile("vmovupd %[in], %%ymm3\n int3\n vmovupd %%ymm3, %[ymm3]\n vzeroupper\n"
                         : [ymm3] "=m"(ymm3)
                         : [in] "m"(in)
                         : "xmm3", "memory");
        CHECK_EQ(memcmp(in, ymm3, 32), 0);
    }
}

static double sum_series(void) {
    double sum = 0;
    for (int i = 1; i <= 200000; i++) sum += 1.0 / i / i;
    return sum;
}

int main(void) {
    struct itimerval often = {{.tv_usec = 500}, {.tv_usec = 500}}, off = {0};
    CHECK(signal(SIGTRAP, clobber) != SIG_ERR);
    for (int i = 0; i < 20; i++) check_across_handler();
    puts("kept over 20 handlers");

    double undisturbed = sum_series();
    CHECK(signal(SIGALRM, clobber) != SIG_ERR);
    runs = 0;
    CHECK_EQ(setitimer(ITIMER_REAL, &often, NULL), 0);
    while (runs < 20) CHECK(sum_series() == undisturbed);
    CHECK_EQ(setitimer(ITIMER_REAL, &off, NULL), 0);
    printf("same sum %.12f while interrupted\n", undisturbed);
    return exit_success();
}
