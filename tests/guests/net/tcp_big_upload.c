// tcp_big_upload: 4 MB in, faster than the server reads at first, and a checksum out: no byte lost, doubled or moved,
// whatever pieces they come in. The receive window closes and opens on the way.
#include "net.h"

int main(int argc, char **argv) {
    static char buffer[70000];
    char line[100];
    int listener = tcp_listen(argc, argv, 0), fd = tcp_accept(listener);
    for (int pause_ms = 20; read_line(fd, line, sizeof line) && strcmp(line, "quit") != 0; pause_ms = 0) {
        size_t size, total = 0, piece = 1;
        uint32_t sum = 1;
        CHECK_EQ(sscanf(line, "put %zu", &size), 1);
        sleep_ms(pause_ms); // let it pile up
        while (total < size) {
            size_t want = size - total < piece ? size - total : piece;
            ssize_t n = read(fd, buffer, want);
            CHECK(n > 0 && (size_t)n <= want);
            sum = adler32(sum, buffer, (size_t)n);
            total += (size_t)n;
            piece = piece < sizeof buffer / 2 ? piece * 2 : sizeof buffer;
        }
        reply(fd, "got %zu adler %08x", total, sum);
        printf("%zu bytes, sum %08x\n", total, sum);
    }
    reply(fd, "bye");
    return exit_success();
}
