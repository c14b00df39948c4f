// fork_socketpair: parent and worker process talk over a socket pair, request and answer in turn, then many in flight:
// the pattern of pre-forking servers and privilege separation.
#include "check.h"
#include <sys/socket.h>
#include <sys/wait.h>

enum { ROUNDS = 300, BURST = 50 };

int main(void) {
    int fds[2], status;
    CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds), 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        long request, answers = 0;
        CHECK_EQ(close(fds[0]), 0);
        while (recv(fds[1], &request, sizeof request, 0) == sizeof request) {
            request = request * 2 + 1;
            CHECK_EQ(send(fds[1], &request, sizeof request, 0), sizeof request);
            answers++;
        }
        _exit(answers == ROUNDS + BURST ? 0 : 1);
    }
    CHECK_EQ(close(fds[1]), 0);
    long value = 1, sum = 0;
    for (long i = 0; i < ROUNDS; i++) {
        CHECK_EQ(send(fds[0], &i, sizeof i, 0), sizeof i);
        CHECK_EQ(recv(fds[0], &value, sizeof value, 0), sizeof value);
        CHECK_EQ(value, i * 2 + 1);
        sum += value;
    }
    printf("%d in turn, sum %ld\n", ROUNDS, sum);
    for (long i = 0; i < BURST; i++) CHECK_EQ(send(fds[0], &i, sizeof i, 0), sizeof i);
    for (long i = 0; i < BURST; i++) {
        CHECK_EQ(recv(fds[0], &value, sizeof value, 0), sizeof value);
        CHECK_EQ(value, i * 2 + 1);
    }
    printf("%d in flight, answered in order\n", BURST);
    CHECK_EQ(close(fds[0]), 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    return exit_success();
}
