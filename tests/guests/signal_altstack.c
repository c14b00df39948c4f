// signal_altstack: a handler with SA_ONSTACK runs on the alternate stack, others don't; inside it the stack can't be
// changed; SS_DISABLE and too small ones behave as documented; each thread has its own. Go and the JVM need this.
#include "check.h"
#include <signal.h>

static char stack[65536], thread_stack[65536];
static volatile bool on_stack, change_refused, said_on_stack;

static void on_signal(int signal) {
    char here;
    stack_t now, other = {.ss_sp = thread_stack, .ss_size = sizeof thread_stack};
    (void)signal;
    on_stack = (&here >= stack && &here < stack + sizeof stack) ||
               (&here >= thread_stack && &here < thread_stack + sizeof thread_stack);
    sigaltstack(NULL, &now);
    said_on_stack = now.ss_flags & SS_ONSTACK;
    change_refused = sigaltstack(&other, NULL) == -1 && errno == EPERM;
}

static void install(int flags) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = flags};
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
}

static void *in_thread(void *arg) {
    stack_t now, mine = {.ss_sp = thread_stack, .ss_size = sizeof thread_stack};
    CHECK_EQ(sigaltstack(NULL, &now), 0);
    CHECK(now.ss_flags == SS_DISABLE); // not inherited
    CHECK_EQ(sigaltstack(&mine, NULL), 0);
    CHECK_EQ(raise(SIGUSR1), 0);
    CHECK(on_stack && said_on_stack);
    return arg;
}

int main(void) {
    stack_t now, mine = {.ss_sp = stack, .ss_size = sizeof stack}, small = {.ss_sp = stack, .ss_size = 1024};
    CHECK_EQ(sigaltstack(NULL, &now), 0);
    CHECK_EQ(now.ss_flags, SS_DISABLE);
    CHECK_ERR(sigaltstack(&small, NULL), ENOMEM);
    CHECK_EQ(sigaltstack(&mine, NULL), 0);
    CHECK_EQ(sigaltstack(NULL, &now), 0);
    CHECK(now.ss_sp == stack && now.ss_size == sizeof stack && now.ss_flags == 0);

    install(SA_ONSTACK);
    CHECK_EQ(raise(SIGUSR1), 0);
    CHECK(on_stack && said_on_stack && change_refused);
    puts("SA_ONSTACK: on it");
    join(spawn(in_thread, NULL));
    puts("a thread: on its own");

    install(0);
    CHECK_EQ(raise(SIGUSR1), 0);
    CHECK(!on_stack && !said_on_stack && !change_refused);
    puts("without SA_ONSTACK: not on it"); // and the handler set thread_stack as ours

    mine.ss_flags = SS_DISABLE;
    CHECK_EQ(sigaltstack(&mine, NULL), 0);
    install(SA_ONSTACK);
    CHECK_EQ(raise(SIGUSR1), 0);
    CHECK(!on_stack);
    puts("disabled: not on it");
    return exit_success();
}
