// Shared by every guest program: checks that name their place, a few short spellings, the last line.
//
// What goes to stdout is the same on every run and on every host: no pid, time, address or thread order.
// A failed check goes to stderr and ends the whole process at once, in whatever thread or child it happens.
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static inline _Noreturn void check_failed(const char *file, int line, const char *what, int error) {
    dprintf(2, "%s:%d: CHECK failed: %s (errno %d, %s)\n", file, line, what, error, strerror(error));
    fflush(stdout);
    _exit(1);
}

static inline _Noreturn void check_eq_failed(const char *file, int line, const char *what, long long got,
                                             long long want, int error) {
    dprintf(2, "%s:%d: CHECK_EQ failed: %s: got %lld, want %lld (errno %d, %s)\n", file, line, what, got, want,
            error, strerror(error));
    fflush(stdout);
    _exit(1);
}

// `cond` holds.
#define CHECK(cond)                                               \
    do {                                                          \
        if (!(cond)) check_failed(__FILE__, __LINE__, #cond, errno); \
    } while (0)

// Two integers (or pointers) are equal; a failure shows both.
#define CHECK_EQ(got, want)                                                                            \
    do {                                                                                               \
        long long got_ = (long long)(got), want_ = (long long)(want);                                  \
        if (got_ != want_) check_eq_failed(__FILE__, __LINE__, #got " == " #want, got_, want_, errno); \
    } while (0)

// The call returns -1 (or MAP_FAILED) and sets errno to `want`.
#define CHECK_ERR(call, want)                                                                     \
    do {                                                                                          \
        errno = 0;                                                                                \
        long long got_ = (long long)(call);                                                       \
        if (got_ != -1 || errno != (want))                                                        \
            check_eq_failed(__FILE__, __LINE__, #call " fails with " #want, got_, -1, errno);     \
    } while (0)

// The last line of every program. `return exit_success();` ends main.
static inline int exit_success(void) {
    puts("EXIT-SUCCESS");
    CHECK_EQ(fflush(stdout), 0);
    return 0;
}

#define NS_PER_MS 1000000ll
#define NS_PER_S 1000000000ll

static inline int64_t now_ns(clockid_t clock) {
    struct timespec t;
    CHECK_EQ(clock_gettime(clock, &t), 0);
    return t.tv_sec * NS_PER_S + t.tv_nsec;
}

static inline struct timespec timespec_of_ns(int64_t ns) {
    return (struct timespec){.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S};
}

// Sleeps are never what makes a program correct: at most they make the interesting order likely.
static inline void sleep_ms(int ms) {
    struct timespec left = timespec_of_ns(ms * NS_PER_MS);
    while (nanosleep(&left, &left) == -1) CHECK_EQ(errno, EINTR);
}

static inline pthread_t spawn(void *(*body)(void *), void *arg) {
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, body, arg), 0);
    return thread;
}

static inline void *join(pthread_t thread) {
    void *result = NULL;
    CHECK_EQ(pthread_join(thread, &result), 0);
    return result;
}

#endif
