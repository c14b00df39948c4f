// futex_wake_op: FUTEX_WAKE_OP changes a second word atomically, wakes waiters of the first, and those of the second
// only if its old value passes a comparison. Some condition variables signal and unlock in one call with it.
#include "futex.h"

static uint32_t staging, first, second;

static void *wait_once(void *arg) {
    CHECK_EQ(futex_wait(&staging, 0, NULL), 0);
    return arg;
}

static long wake_op(uint32_t count1, uint32_t count2, uint32_t op) {
    return futex(&first, FUTEX_WAKE_OP_PRIVATE, count1, (void *)(long)count2, &second, op);
}

int main(void) {
    pthread_t waiters[4];
    for (int i = 0; i < 4; i++) waiters[i] = spawn(wait_once, NULL);
    futex_move_surely(&staging, &first, 2);
    futex_move_surely(&staging, &second, 2);

    second = 10;
    CHECK_EQ(wake_op(1, 1, FUTEX_OP(FUTEX_OP_ADD, 5, FUTEX_OP_CMP_EQ, 11)), 1);
    CHECK_EQ(second, 15);
    puts("add, comparison fails: only the first word's waiter");

    CHECK_EQ(wake_op(1, 1, FUTEX_OP(FUTEX_OP_OR, 0x20, FUTEX_OP_CMP_GE, 15)), 2);
    CHECK_EQ(second, 0x2f);
    puts("or, comparison holds: one waiter of each word");

    CHECK_EQ(wake_op(INT_MAX, INT_MAX, FUTEX_OP(FUTEX_OP_SET, 1, FUTEX_OP_CMP_NE, 0)), 1);
    CHECK_EQ(second, 1);
    puts("set: the second word's last waiter");

    CHECK_EQ(wake_op(1, 1, FUTEX_OP(FUTEX_OP_XOR, 3, FUTEX_OP_CMP_LT, 2)), 0);
    CHECK_EQ(second, 2);
    CHECK_EQ(wake_op(1, 1, FUTEX_OP(FUTEX_OP_ANDN, 2, FUTEX_OP_CMP_LE, 2)), 0);
    CHECK_EQ(second, 0);
    CHECK_EQ(wake_op(1, 1, FUTEX_OP((FUTEX_OP_OR | FUTEX_OP_OPARG_SHIFT), 4, FUTEX_OP_CMP_GT, 0)), 0);
    CHECK_EQ(second, 16);
    puts("xor, and-not, shifted operand");

    for (int i = 0; i < 4; i++) join(waiters[i]);
    return exit_success();
}
