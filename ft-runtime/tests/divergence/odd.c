// odd PORT FILE: one connection after the other, a letter a line, and a line back.
//
//   f   what FILE holds
//   r   what rdrand says, without asking cpuid for it
//   s   what lies on the stack where nobody has written
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

__attribute__((noinline)) static uint64_t dirt(void) {
    volatile unsigned char here[4096];
    uint64_t sum = 0;
    for (size_t i = 0; i < sizeof here; i++) sum = sum * 31 + here[i];
    return sum;
}

__attribute__((noinline)) static void answer(int fd, char what, const char *file) {
    char text[128] = "?\n";
    unsigned long long random = 0;
    if (what == 'f') {
        FILE *f = fopen(file, "r");
        if (f == NULL || fgets(text, sizeof text, f) == NULL) strcpy(text, "nothing\n");
        if (f != NULL) fclose(f);
    } else if (what == 'r') {
        __asm__ volatile("1: rdrand %0\n jnc 1b" : "=r"(random));
        snprintf(text, sizeof text, "%llx\n", random);
    } else if (what == 's') {
        snprintf(text, sizeof text, "%llx\n", (unsigned long long)dirt());
    }
    if (write(fd, text, strlen(text)) < 0) perror("write");
}

int main(int argc, char **argv) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0)};
    int l = socket(AF_INET, SOCK_STREAM, 0);
    if (argc != 3 || bind(l, (struct sockaddr *)&a, sizeof a) != 0 || listen(l, 16) != 0) return 1;
    for (;;) {
        int fd = accept(l, NULL, NULL);
        char c;
        while (read(fd, &c, 1) == 1)
            if (c != '\n') answer(fd, c, argv[2]);
        close(fd);
    }
}
