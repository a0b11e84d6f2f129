// What the kinds of work share: the digest of what they saw, and how they fail.
#pragma once

#define _GNU_SOURCE
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Adds a value to the digest of the kind at work. Only what is the same in every run may be added, and only by the program's first thread.
void note(uint64_t value);

// Ends the program with a line that names the kind at work.
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Fails unless `condition` holds, with what was there instead.
#define REQUIRE(condition, format, ...)                                                              \
    do {                                                                                             \
        if (!(condition))                                                                            \
            fail("%s:%d: %s: " format, __FILE__, __LINE__, #condition __VA_OPT__(, ) __VA_ARGS__);   \
    } while (0)

// The kernel itself, without the C library in between: its result, negative for an error.
long kernel(long number, ...);

// Installs a handler for `signal`, which runs on the alternate stack if there is one.
typedef void handler(int signal, siginfo_t *info, void *context);
void handle(int signal, handler *handler);

// Nanoseconds since some moment.
uint64_t now(void);

// The kinds of work. Each is done once a round and leaves nothing behind.
void calls(void);
void compat(void);
void faults(void);
void floating(void);
void memory(void);
void processes(void);
void registers(void);
void signals(void);
void steps(void);
void threads(void);
void timers(void);
void tracing(void);
void vdso(void);

// Finds kernel addresses that exist, before the first round.
void find_kernel(void);

// What `processes` executes this program as.
int executed(int argc, char **argv);
#define EXECUTED "executed"
