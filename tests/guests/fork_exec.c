// fork_exec: commands are run and talked to: fork and exec with redirected descriptors, popen both ways, system and its
// status. Hooks, CGI, archive commands; the programs run are small ones found everywhere.
#include "check.h"
#include <signal.h>
#include <sys/wait.h>

int main(void) {
    int in[2], out[2], status;
    char text[100] = {0};
    CHECK(pipe(in) == 0 && pipe(out) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(dup2(in[0], 0) == 0 && dup2(out[1], 1) == 1);
        CHECK(close(in[0]) == 0 && close(in[1]) == 0 && close(out[0]) == 0 && close(out[1]) == 0);
        execl("/bin/cat", "cat", "-", NULL);
        _exit(127);
    }
    CHECK(close(in[0]) == 0 && close(out[1]) == 0);
    CHECK_EQ(write(in[1], "through cat\n", 12), 12);
    CHECK_EQ(read(out[0], text, sizeof text), 12);
    CHECK_EQ(strcmp(text, "through cat\n"), 0);
    CHECK_EQ(close(in[1]), 0);
    CHECK_EQ(read(out[0], text, sizeof text), 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    puts("cat: a line there and back, then its end");

    FILE *f = popen("echo one; echo two; exit 5", "r");
    CHECK(f != NULL);
    CHECK(fgets(text, sizeof text, f) != NULL && strcmp(text, "one\n") == 0);
    CHECK(fgets(text, sizeof text, f) != NULL && strcmp(text, "two\n") == 0);
    CHECK(fgets(text, sizeof text, f) == NULL);
    status = pclose(f);
    CHECK_EQ(WEXITSTATUS(status), 5);
    f = popen("read line; test \"$line\" = hello", "w");
    CHECK(f != NULL && fputs("hello\n", f) >= 0);
    CHECK_EQ(pclose(f), 0);
    puts("popen: read two lines and a status, wrote one");

    status = system("exit 3");
    CHECK_EQ(WEXITSTATUS(status), 3);
    status = system("kill -TERM $$");
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
    status = system("/does/not/exist 2>/dev/null");
    CHECK_EQ(WEXITSTATUS(status), 127);
    CHECK_EQ(setenv("GUEST_WORD", "from the parent", 1), 0);
    CHECK_EQ(system("test \"$GUEST_WORD\" = 'from the parent'"), 0);
    puts("system: statuses and environment");
    return exit_success();
}
