// thread_stack_size: a thread gets the stack size it asked for (or the very memory), and can use nearly all
// of it. The shim must not live on, or shrink, a guest's stack.
#include "check.h"
#include <alloca.h>
#include <limits.h>
#include <sys/mman.h>

// Touches `arg` bytes of the own stack.
static void *use_stack(void *arg) {
    size_t size = (size_t)arg, touched = 0;
    volatile char *area = alloca(size);
    for (size_t i = 0; i < size; i += 512) area[i] = (char)(i / 512), touched++;
    for (size_t i = 0; i < size; i += 512) CHECK_EQ(area[i], (char)(i / 512));
    return (void *)touched;
}

static void *report_size(void *arg) {
    (void)arg;
    pthread_attr_t attr;
    void *low, *here = __builtin_frame_address(0);
    size_t size;
    CHECK_EQ(pthread_getattr_np(pthread_self(), &attr), 0);
    CHECK_EQ(pthread_attr_getstack(&attr, &low, &size), 0);
    CHECK(here > low && (char *)here < (char *)low + size);
    CHECK_EQ(pthread_attr_destroy(&attr), 0);
    return (void *)size;
}

static void *run(pthread_attr_t *attr, void *(*body)(void *), size_t arg) {
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, attr, body, (void *)arg), 0);
    return join(thread);
}

int main(void) {
    static const size_t sizes_kb[] = {32, 128, 1024, 16384};
    pthread_attr_t attr;
    CHECK_EQ(pthread_attr_init(&attr), 0);
    CHECK_EQ(pthread_attr_setstacksize(&attr, PTHREAD_STACK_MIN - 1), EINVAL);
    for (int i = 0; i < 4; i++) {
        size_t size = sizes_kb[i] * 1024;
        CHECK_EQ(pthread_attr_setstacksize(&attr, size), 0);
        CHECK_EQ(run(&attr, report_size, 0), size);
        CHECK_EQ(run(&attr, use_stack, size - 16 * 1024), (size - 16 * 1024) / 512);
        printf("%zu kB: got and used\n", sizes_kb[i]);
    }

    size_t size = 256 * 1024;
    char *own = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(own != MAP_FAILED);
    CHECK_EQ(pthread_attr_setstack(&attr, own, size), 0);
    CHECK_EQ(run(&attr, report_size, 0), size);
    run(&attr, use_stack, size - 16 * 1024);
    CHECK_EQ(munmap(own, size), 0);
    puts("own memory as stack: used");
    return exit_success();
}
