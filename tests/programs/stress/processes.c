// Processes that are born, become other programs, and end in every way.

#include "stress.h"

#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define SELF "/proc/self/exe"
extern char **environ;

int executed(int argc, char **argv)
{
    int code = argc;
    for (int i = 2; i < argc; i++)
        code = code * 7 + atoi(argv[i]);
    return code & 0x7f;
}

static int status_of(pid_t child)
{
    int status;
    REQUIRE(waitpid(child, &status, 0) == child, "%s", strerror(errno));
    return status;
}

static void exits(void)
{
    for (int code = 0; code < 8; code++) {
        pid_t child = fork();
        if (child == 0)
            _exit(code * 31);
        note(status_of(child));
    }
    pid_t child = vfork();
    if (child == 0)
        _exit(9);
    note(status_of(child));
}

static pid_t execute(char *const *arguments)
{
    pid_t child = vfork();
    if (child == 0) {
        execv(SELF, arguments);
        _exit(127);
    }
    return child;
}

static void programs(void)
{
    for (int i = 0; i < 4; i++) {
        char number[16];
        snprintf(number, sizeof(number), "%d", i * 5);
        char *arguments[] = {"stress", EXECUTED, number, "3", NULL};
        pid_t child = 0;
        if (i % 2 == 0)
            child = execute(arguments);
        else
            REQUIRE(posix_spawn(&child, SELF, NULL, NULL, arguments, environ) == 0, "round %d", i);
        note(status_of(child));
    }
    pid_t child = fork();
    if (child == 0) {
        execl("/nonexistent", "x", NULL);
        _exit(errno);
    }
    note(status_of(child));
}

// What ends a program that does not expect it.
static void ends(void)
{
    static const int deadly[] = {SIGKILL, SIGTERM, SIGSEGV, SIGABRT, SIGXCPU};
    for (size_t i = 0; i < sizeof(deadly) / sizeof(deadly[0]); i++) {
        pid_t child = fork();
        if (child == 0) {
            struct rlimit none = {0, 0};
            setrlimit(RLIMIT_CORE, &none);
            raise(deadly[i]);
            for (;;)
                pause();
        }
        note(WTERMSIG(status_of(child)));
    }
    pid_t child = fork();
    if (child == 0)
        for (;;)
            pause();
    int status;
    kill(child, SIGSTOP);
    REQUIRE(waitpid(child, &status, WUNTRACED) == child, "%s", strerror(errno));
    note(WIFSTOPPED(status));
    kill(child, SIGCONT);
    REQUIRE(waitpid(child, &status, WCONTINUED) == child, "%s", strerror(errno));
    note(WIFCONTINUED(status));
    kill(child, SIGKILL);
    note(WTERMSIG(status_of(child)));
}

// A chain of processes, each of which adds to what it reads.
static void chain(void)
{
    int in[2], out[2];
    enum { LINKS = 6, WORDS = 64 };
    pid_t children[LINKS];
    REQUIRE(pipe(in) == 0, "%s", strerror(errno));
    int first = in[1], last = in[0];
    for (int i = 0; i < LINKS; i++) {
        REQUIRE(pipe(out) == 0, "%s", strerror(errno));
        children[i] = fork();
        if (children[i] == 0) {
            close(first);
            uint64_t word;
            while (read(last, &word, sizeof(word)) == sizeof(word)) {
                word = word * 3 + i;
                if (write(out[1], &word, sizeof(word)) != sizeof(word))
                    _exit(1);
            }
            _exit(0);
        }
        close(out[1]);
        close(last);
        last = out[0];
    }
    for (uint64_t i = 0; i < WORDS; i++) {
        uint64_t word = i;
        REQUIRE(write(first, &word, sizeof(word)) == sizeof(word), "%s", strerror(errno));
        REQUIRE(read(last, &word, sizeof(word)) == sizeof(word), "%s", strerror(errno));
        note(word);
    }
    close(first);
    for (int i = 0; i < LINKS; i++)
        note(status_of(children[i]));
    close(last);
}

void processes(void)
{
    exits();
    programs();
    ends();
    chain();
}
