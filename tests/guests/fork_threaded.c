// fork_threaded: a thread of a busy process forks: the child has that thread alone, its memory and locks are usable
// (malloc, stdio, pthread_atfork), and it can start threads of its own. Interpreters and JVMs do this to run commands.
#include "check.h"
#include <sys/wait.h>

enum { THREADS = 3 };
static int stop, prepared, in_parent, in_child;
static pthread_t main_thread;

static void prepare(void) { prepared++; }
static void parent(void) { in_parent++; }
static void child_side(void) { in_child++; }

static void *allocate_for_ever(void *arg) {
    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) free(malloc(100 + (size_t)(rand() % 1000)));
    return arg;
}

static void *return_argument(void *arg) { return arg; }

static void *fork_from_thread(void *arg) {
    int status;
    for (int i = 0; i < 5; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            char *p = malloc(100000); // no lock may have been left held by a thread that is not here
            memset(p, 1, 100000);
            free(p);
            CHECK_EQ(gettid(), getpid()); // we are its main thread now
            CHECK(!pthread_equal(pthread_self(), main_thread));
            CHECK_EQ(in_child, 1);
            CHECK_EQ((long)join(spawn(return_argument, (void *)21l)), 21);
            _exit(prepared);
        }
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(WEXITSTATUS(status), i + 1);
    }
    return arg;
}

int main(void) {
    pthread_t threads[THREADS];
    main_thread = pthread_self();
    CHECK_EQ(pthread_atfork(prepare, parent, child_side), 0);
    for (int i = 0; i < THREADS; i++) threads[i] = spawn(allocate_for_ever, NULL);
    join(spawn(fork_from_thread, NULL));
    __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
    for (int i = 0; i < THREADS; i++) join(threads[i]);
    printf("atfork: %d prepared, %d in the parent, %d in a child\n", prepared, in_parent, in_child);
    return exit_success();
}
