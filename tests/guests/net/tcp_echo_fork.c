// tcp_echo_fork: a process per connection: the parent accepts, forks and closes, the child serves and exits, SIGCHLD
// comes through a signalfd. inetd and sshd work so; the connection changes hands by inheritance.
#include "net.h"
#include <sys/signalfd.h>
#include <sys/wait.h>

enum { QUIT = 77 };

int main(int argc, char **argv) {
    int listener = tcp_listen(argc, argv, 0), clients = 0, running = 0;
    long lines = 0;
    bool quit = false;
    sigset_t sigchld;
    sigemptyset(&sigchld);
    sigaddset(&sigchld, SIGCHLD);
    CHECK_EQ(sigprocmask(SIG_BLOCK, &sigchld, NULL), 0);
    struct pollfd p[2] = {{.fd = listener, .events = POLLIN},
                          {.fd = signalfd(-1, &sigchld, SFD_NONBLOCK), .events = POLLIN}};
    while (!quit || running > 0) {
        CHECK(poll(p, 2, -1) > 0);
        if (p[0].revents != 0) {
            int fd = tcp_accept(listener);
            pid_t child = fork();
            CHECK(child >= 0);
            if (child == 0) {
                CHECK_EQ(close(listener), 0);
                lines = 0;
                struct reader *r = reader_new(fd);
                if (echo_lines(r, &lines)) _exit(QUIT);
                _exit((int)lines);
            }
            CHECK_EQ(close(fd), 0);
            clients++, running++;
        }
        if (p[1].revents != 0) {
            struct signalfd_siginfo record;
            int status;
            while (read(p[1].fd, &record, sizeof record) > 0) CHECK_EQ(record.ssi_signo, SIGCHLD);
            while (waitpid(-1, &status, WNOHANG) > 0) {
                CHECK(WIFEXITED(status));
                running--;
                if (WEXITSTATUS(status) == QUIT) quit = true;
                else lines += WEXITSTATUS(status);
            }
        }
    }
    printf("%d clients, %ld lines\n", clients, lines);
    return exit_success();
}
