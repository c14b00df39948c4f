// Waits and works in turns, and fails in the end if it is told to: for somebody to look at with a debugger.

#include <poll.h>
#include <stdio.h>

static int sum;

__attribute__((noinline)) void step(int n) {
    sum += n;
    printf("%d\n", n);
    fflush(stdout);
}

__attribute__((noinline)) void fail(int *at) {
    *at = sum;
}

int main(int count, char **arguments) {
    for (int n = 1; n <= 20; n++) {
        poll(0, 0, 5);
        step(n);
    }
    if (count > 1) {
        fail(0);
    }
    return arguments[0] == 0;
}
