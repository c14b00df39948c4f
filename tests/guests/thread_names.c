// thread_names: threads have names of at most 15 bytes, set by themselves (prctl) or by another thread (through
// /proc/self/task/<tid>/comm, which must lead to the right thread though its tid may be a virtual one).
#include "check.h"

static pthread_barrier_t named;

static void *name_self(void *arg) {
    char name[16];
    CHECK_EQ(pthread_setname_np(pthread_self(), arg), 0);
    CHECK_EQ(pthread_getname_np(pthread_self(), name, sizeof name), 0);
    CHECK_EQ(strcmp(name, arg), 0);
    pthread_barrier_wait(&named); // main reads, then renames
    pthread_barrier_wait(&named);
    CHECK_EQ(pthread_getname_np(pthread_self(), name, sizeof name), 0);
    CHECK_EQ(strcmp(name, "renamed"), 0);
    return NULL;
}

int main(void) {
    static char *names[] = {"worker-a", "worker-b", "fifteen-letters"};
    pthread_t threads[3];
    char name[16];
    CHECK_EQ(pthread_setname_np(pthread_self(), "sixteen-letters!"), ERANGE);
    CHECK_EQ(pthread_setname_np(pthread_self(), "the-main-one"), 0);
    CHECK_EQ(pthread_barrier_init(&named, NULL, 4), 0);
    for (int i = 0; i < 3; i++) threads[i] = spawn(name_self, names[i]);
    pthread_barrier_wait(&named);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(pthread_getname_np(threads[i], name, sizeof name), 0);
        CHECK_EQ(strcmp(name, names[i]), 0);
        printf("%s\n", name);
        CHECK_EQ(pthread_setname_np(threads[i], "renamed"), 0);
    }
    pthread_barrier_wait(&named);
    for (int i = 0; i < 3; i++) join(threads[i]);
    CHECK_EQ(pthread_getname_np(pthread_self(), name, sizeof name), 0);
    printf("%s\n", name);
    return exit_success();
}
