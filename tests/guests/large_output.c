// large_output: 300 kB to standard output, in writes of all sizes from 1 to 20,000 bytes, each complete or carried on
// where it stopped. More than any pipe holds: whoever reads slowly makes us wait, and not a byte is lost or doubled.
#include "check.h"

enum { LINE = 50, LINES = 6000 };
static char text[LINES * LINE];

int main(void) {
    for (int i = 0; i < LINES; i++) {
        char line[LINE + 1];
        CHECK_EQ(snprintf(line, sizeof line, "%05d the quick brown fox jumps over the lazy dog\n", i), LINE);
        memcpy(text + i * LINE, line, LINE);
    }
    size_t done = 0, piece = 1;
    while (done < sizeof text) {
        size_t want = piece < sizeof text - done ? piece : sizeof text - done;
        ssize_t n = write(1, text + done, want);
        CHECK(n > 0 && (size_t)n <= want);
        done += (size_t)n;
        piece = piece * 13 % 20011;
    }
    return exit_success();
}
