// env_args: the stack a program starts with is sane: argv, environment, then the auxiliary vector, whose entries are
// true: page size, program headers, entry, user, 16 random bytes, the file's name. An injector edits this very vector.
#include "check.h"
#include <elf.h>
#include <link.h>
#include <sys/auxv.h>

extern char **environ;
extern char _start, __ehdr_start;

int main(int argc, char **argv, char **envp) {
    CHECK(argc == 1 && argv[0] != NULL && argv[argc] == NULL);
    CHECK(envp == argv + argc + 1);
    CHECK(environ == envp);
    CHECK_EQ((uintptr_t)argv % 8, 0);
    int variables = 0;
    for (char **e = envp; *e != NULL; e++, variables++) CHECK(strchr(*e, '=') != NULL);
    CHECK_EQ(setenv("GUEST_TEST", "value", 1), 0);
    CHECK_EQ(strcmp(getenv("GUEST_TEST"), "value"), 0);
    CHECK_EQ(unsetenv("GUEST_TEST"), 0);
    CHECK(getenv("GUEST_TEST") == NULL);
    puts("arguments and environment");

    const ElfW(auxv_t) *aux = (void *)(envp + variables + 1);
    int entries = 0;
    bool random_seen = false;
    for (; aux->a_type != AT_NULL; aux++, entries++) {
        CHECK(entries < 64);
        if (aux->a_type == AT_IGNORE || aux->a_type == AT_HWCAP) continue; // ld.so keeps its own AT_HWCAP
        CHECK_EQ(getauxval(aux->a_type), aux->a_un.a_val);
        random_seen |= aux->a_type == AT_RANDOM;
    }
    CHECK(entries > 10 && random_seen);
    CHECK_EQ(getauxval(AT_PAGESZ), 4096);
    CHECK_EQ(getauxval(AT_CLKTCK), 100);
    CHECK_EQ(getauxval(AT_SECURE), 0);
    CHECK(getauxval(AT_UID) == getuid() && getauxval(AT_EUID) == geteuid() && getauxval(AT_GID) == getgid());
    puts("sizes and ids");

    CHECK_EQ(getauxval(AT_ENTRY), (uintptr_t)&_start);
    CHECK_EQ(getauxval(AT_PHENT), sizeof(ElfW(Phdr)));
    CHECK_EQ(getauxval(AT_PHDR), (uintptr_t)&__ehdr_start + ((ElfW(Ehdr) *)&__ehdr_start)->e_phoff);
    CHECK_EQ(getauxval(AT_PHNUM), ((ElfW(Ehdr) *)&__ehdr_start)->e_phnum);
    CHECK_EQ(memcmp((void *)getauxval(AT_BASE), ELFMAG, SELFMAG), 0); // the dynamic linker
    puts("program headers, entry, linker");

    const unsigned char *random = (void *)getauxval(AT_RANDOM);
    int different = 0;
    for (int i = 1; i < 16; i++) different += random[i] != random[0];
    CHECK(different > 0);
    const char *file = (void *)getauxval(AT_EXECFN);
    CHECK_EQ(strcmp(strrchr(file, '/') ? strrchr(file, '/') + 1 : file, "env_args"), 0);
    CHECK_EQ(strcmp((char *)getauxval(AT_PLATFORM), "x86_64"), 0);
    CHECK(getauxval(AT_MINSIGSTKSZ) == 0 || getauxval(AT_MINSIGSTKSZ) >= 1024);
    puts("random bytes, file, platform");
    return exit_success();
}
