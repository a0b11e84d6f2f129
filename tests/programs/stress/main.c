// Enters and leaves the kernel in every way that a program can, and digests what it sees: the same in every run, on every machine, or something is wrong.
//
//     stress rounds N      N rounds
//     stress seconds N     as many rounds as begin within N seconds
//
// The last line is `stress: ok DIGEST in N rounds`; the digest does not depend on how many rounds there were.

#include "stress.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

struct kind {
    const char *name;
    void (*work)(void);
};

static const struct kind kinds[] = {
    {"calls", calls},
    {"compat", compat},
    {"faults", faults},
    {"floating", floating},
    {"memory", memory},
    {"processes", processes},
    {"registers", registers},
    {"signals", signals},
    {"steps", steps},
    {"threads", threads},
    {"timers", timers},
    {"tracing", tracing},
    {"vdso", vdso},
};
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

static const uint64_t START = 0xcbf29ce484222325;
static uint64_t digest;
static const char *at_work = "start";

void note(uint64_t value)
{
    // FNV-1a over the value's bytes.
    for (int byte = 0; byte < 8; byte++)
        digest = (digest ^ (value >> (8 * byte) & 0xff)) * 0x100000001b3;
}

void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    printf("stress: FAIL %s: ", at_work);
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
    fflush(stdout);
    _exit(1);
}

void handle(int signal, handler *handler)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    REQUIRE(sigaction(signal, &action, NULL) == 0, "signal %d: %s", signal, strerror(errno));
}

uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static void one_round(uint64_t seen[KINDS])
{
    for (size_t kind = 0; kind < KINDS; kind++) {
        at_work = kinds[kind].name;
        digest = START;
        kinds[kind].work();
        seen[kind] = digest;
    }
    at_work = "end";
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], EXECUTED) == 0)
        return executed(argc, argv);
    bool timed = argc == 3 && strcmp(argv[1], "seconds") == 0;
    if (argc != 3 || (!timed && strcmp(argv[1], "rounds") != 0)) {
        fprintf(stderr, "usage: stress rounds N | seconds N\n");
        return 2;
    }
    unsigned long count = strtoul(argv[2], NULL, 10);
    static char stack[65536];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof(stack)};
    REQUIRE(sigaltstack(&alternate, NULL) == 0, "%s", strerror(errno));
    find_kernel();

    uint64_t first[KINDS], seen[KINDS], end = now() + count * 1000000000;
    one_round(first);
    unsigned long rounds = 1;
    for (; timed ? now() < end : rounds < count; rounds++) {
        one_round(seen);
        for (size_t kind = 0; kind < KINDS; kind++)
            if (seen[kind] != first[kind]) {
                at_work = kinds[kind].name;
                fail("round %lu gives %016lx, the first gave %016lx", rounds + 1, seen[kind], first[kind]);
            }
    }
    digest = START;
    for (size_t kind = 0; kind < KINDS; kind++) {
        printf("stress: %s %016lx\n", kinds[kind].name, first[kind]);
        note(first[kind]);
    }
    printf("stress: ok %016lx in %lu rounds\n", digest, rounds);
    return 0;
}
