// cpuid_stable: cpuid gives the same answers every time and in every thread (but for the local APIC id), and keeps the
// registers it does not write. It may be trapped and emulated.
#include "check.h"
#include <cpuid.h>

struct answer { uint32_t eax, ebx, ecx, edx; };

static struct answer ask(uint32_t leaf, uint32_t subleaf) {
    struct answer a;
    __cpuid_count(leaf, subleaf, a.eax, a.ebx, a.ecx, a.edx);
    if (leaf == 1) a.ebx &= 0x00ffffff; // the APIC id of whatever processor this is
    return a;
}

static struct answer first[2][3]; // leaves 0, 1, 7 plain; 0x80000000, 0x80000001, 0x80000008 extended

static void *ask_again(void *arg) {
    for (int i = 0; i < 200; i++) {
        static const uint32_t leaves[2][3] = {{0, 1, 7}, {0x80000000, 0x80000001, 0x80000008}};
        for (int set = 0; set < 2; set++) {
            for (int l = 0; l < 3; l++) {
                struct answer now = ask(leaves[set][l], 0);
                if (arg != NULL) first[set][l] = now;
                CHECK_EQ(memcmp(&now, &first[set][l], sizeof now), 0);
            }
        }
        arg = NULL;
    }
    return NULL;
}

int main(void) {
    ask_again(first); // fills it
    join(spawn(ask_again, NULL));
    puts("same answers, in another thread too");

    char vendor[13] = {0};
    memcpy(vendor, &first[0][0].ebx, 4);
    memcpy(vendor + 4, &first[0][0].edx, 4);
    memcpy(vendor + 8, &first[0][0].ecx, 4);
    CHECK_EQ(strlen(vendor), 12);
    CHECK(first[0][0].eax >= 7);
    CHECK(first[0][1].edx & bit_SSE2);
    CHECK((first[1][0].eax & 0xffff0000) == 0x80000000);
    CHECK(first[1][1].edx & bit_LM);
    puts("x86-64 with SSE2");

    register uint64_t r12 __asm__("r12") = 0x1234567812345678, r15 __asm__("r15") = 0x8765432187654321;
    double x = 1.5;
    __asm__ volatile("xor %%eax, %%eax\n cpuid\n" : "+r"(r12), "+r"(r15), "+x"(x) : : "rax", "rbx", "rcx", "rdx");
    CHECK_EQ(r12, 0x1234567812345678);
    CHECK_EQ(r15, 0x8765432187654321);
    CHECK(x == 1.5);
    puts("other registers are kept");
    return exit_success();
}
