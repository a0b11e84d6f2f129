// One process that traces another: steps, system calls that it sees and changes, memory and registers, breakpoints of the processor's.

#include "stress.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile uint64_t watched;
static volatile uint64_t poked = 0x1111;

static __attribute__((noinline)) void stepped_over(void)
{
    asm volatile("mov $40, %%ecx; 1: dec %%ecx; jnz 1b; cpuid" ::: "rax", "rbx", "rcx", "rdx");
}

static __attribute__((noinline)) void broken_at(void)
{
    asm volatile("nop; nop" ::: "memory");
}

// Without the C library, whose `raise` makes more system calls than this one.
static void stop(void)
{
    kernel(SYS_kill, kernel(SYS_getpid), SIGSTOP);
}

// What is traced: stops between its parts, each of which one function below looks at.
static _Noreturn void traced(void)
{
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
        _exit(100);
    stop();
    stepped_over();
    stop();
    for (int i = 0; i < 10; i++) {
        kernel(SYS_getuid);
        kernel(SYS_close, 900 + i);
        if (kernel(600) != (i == 5 ? 4242 : -ENOSYS))
            _exit(101);
    }
    stop();
    if (poked != 0x2222333344445555)
        _exit(102);
    for (int i = 0; i < 3; i++) {
        broken_at();
        watched += i;
    }
    stop();
    for (;;)
        pause();
}

static pid_t child;

static int wait_for_stop(void)
{
    int status;
    REQUIRE(waitpid(child, &status, 0) == child, "%s", strerror(errno));
    REQUIRE(WIFSTOPPED(status), "status %x", status);
    return WSTOPSIG(status);
}

static void go_on(int how, int expected)
{
    REQUIRE(ptrace(how, child, NULL, NULL) == 0, "%s", strerror(errno));
    int signal = wait_for_stop();
    REQUIRE(signal == expected, "signal %d, not %d", signal, expected);
}

static struct user_regs_struct its_registers(void)
{
    struct user_regs_struct all;
    REQUIRE(ptrace(PTRACE_GETREGS, child, NULL, &all) == 0, "%s", strerror(errno));
    return all;
}

// Steps until the next stop that is none of a step, and digests the way.
static void follow_steps(void)
{
    uint64_t last = 0, inside = 0;
    int signal = SIGTRAP;
    while (signal == SIGTRAP) {
        struct user_regs_struct at = its_registers();
        uint64_t offset = at.rip - (uintptr_t)stepped_over;
        if (offset < 32) {
            note(offset);
            REQUIRE(at.rip != last || inside == 0, "%lx twice", last);
            inside++;
        }
        last = at.rip;
        REQUIRE(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) == 0, "%s", strerror(errno));
        signal = wait_for_stop();
    }
    REQUIRE(signal == SIGSTOP && inside > 80, "signal %d after %ld steps", signal, inside);
    note(inside);
}

static void follow_calls(void)
{
    REQUIRE(ptrace(PTRACE_SETOPTIONS, child, NULL, PTRACE_O_TRACESYSGOOD) == 0, "%s", strerror(errno));
    int unknown = 0;
    for (int i = 0; i < 30; i++) {
        go_on(PTRACE_SYSCALL, SIGTRAP | 0x80);
        struct user_regs_struct at = its_registers();
        note(at.orig_rax);
        REQUIRE((long)at.rax == -ENOSYS, "rax is %llx at the call", at.rax);
        go_on(PTRACE_SYSCALL, SIGTRAP | 0x80);
        at = its_registers();
        if (at.orig_rax == 600 && unknown++ == 5) {
            at.rax = 4242;
            REQUIRE(ptrace(PTRACE_SETREGS, child, NULL, &at) == 0, "%s", strerror(errno));
        }
        note(at.orig_rax == SYS_getuid ? 0 : at.rax);
    }
    REQUIRE(unknown == 10, "%d", unknown);
    go_on(PTRACE_CONT, SIGSTOP);
}

static void look_and_change(void)
{
    errno = 0;
    long word = ptrace(PTRACE_PEEKDATA, child, &poked, NULL);
    REQUIRE(errno == 0 && word == 0x1111, "%lx", word);
    note(word);
    note(ptrace(PTRACE_POKEDATA, child, &poked, 0x2222333344445555));
    note(ptrace(PTRACE_PEEKDATA, child, &poked, NULL));
    word = ptrace(PTRACE_PEEKTEXT, child, stepped_over, NULL);
    REQUIRE(memcmp(&word, stepped_over, sizeof(word)) == 0, "%lx", word);
    note(ptrace(PTRACE_POKETEXT, child, stepped_over, word));
    errno = 0;
    ptrace(PTRACE_PEEKDATA, child, (void *)0xffffffff81000000, NULL);
    note(errno);
}

static void set_debug(int index, uint64_t value)
{
    REQUIRE(ptrace(PTRACE_POKEUSER, child, offsetof(struct user, u_debugreg) + 8 * index, value) == 0, "DR%d: %s", index, strerror(errno));
}

// A breakpoint on an instruction and one on a word that is written: each comes three times, in this order.
static void breakpoints(void)
{
    set_debug(0, (uintptr_t)broken_at);
    set_debug(1, (uintptr_t)&watched);
    set_debug(7, 0x1 | 0x4 | 0x9ull << 20); // DR0: execute; DR1: write, 8 bytes
    for (int i = 0; i < 6; i++) {
        go_on(PTRACE_CONT, SIGTRAP);
        errno = 0;
        long status = ptrace(PTRACE_PEEKUSER, child, offsetof(struct user, u_debugreg) + 8 * 6, NULL);
        REQUIRE((status & 3) == 1 << i % 2, "DR6 is %lx at stop %d", status, i);
        note(status & 3);
        note(i % 2 == 1 || its_registers().rip == (uintptr_t)broken_at);
        siginfo_t info;
        note(ptrace(PTRACE_GETSIGINFO, child, NULL, &info));
        note(info.si_code);
        set_debug(6, 0);
    }
    set_debug(7, 0);
    long refused = ptrace(PTRACE_POKEUSER, child, offsetof(struct user, u_debugreg), 0xffffffff81000000);
    note(refused);
    go_on(PTRACE_CONT, SIGSTOP);
}

// A new process whose first way out of the kernel is one that the processor refuses, because its stack segment has no descriptor. Nobody has entered
// user mode with its page tables before.
static void refused_first_return(void)
{
    pid_t forks = child = fork();
    if (child == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
            _exit(100);
        stop();
        if (fork() == 0)
            _exit(7);
        for (;;)
            pause();
    }
    REQUIRE(child > 0, "%s", strerror(errno));
    int signal = wait_for_stop();
    REQUIRE(signal == SIGSTOP, "signal %d", signal);
    REQUIRE(ptrace(PTRACE_SETOPTIONS, child, NULL, PTRACE_O_TRACEFORK) == 0, "%s", strerror(errno));
    go_on(PTRACE_CONT, SIGTRAP);
    unsigned long forked;
    REQUIRE(ptrace(PTRACE_GETEVENTMSG, child, NULL, &forked) == 0, "%s", strerror(errno));
    child = forked;
    signal = wait_for_stop();
    REQUIRE(signal == SIGSTOP, "signal %d", signal);
    struct user_regs_struct good = its_registers(), bad = good;
    bad.ss = 0x3f3;
    REQUIRE(ptrace(PTRACE_SETREGS, child, NULL, &bad) == 0, "%s", strerror(errno));
    go_on(PTRACE_CONT, SIGSEGV);
    siginfo_t info;
    note(ptrace(PTRACE_GETSIGINFO, child, NULL, &info));
    note(info.si_code);
    note(its_registers().ss);
    REQUIRE(ptrace(PTRACE_SETREGS, child, NULL, &good) == 0, "%s", strerror(errno));
    REQUIRE(ptrace(PTRACE_CONT, child, NULL, NULL) == 0, "%s", strerror(errno));
    int status;
    REQUIRE(waitpid(child, &status, 0) == child, "%s", strerror(errno));
    REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == 7, "status %x", status);
    kill(forks, SIGKILL);
    REQUIRE(waitpid(forks, NULL, 0) == forks, "%s", strerror(errno));
}

void tracing(void)
{
    refused_first_return();
    child = fork();
    if (child == 0)
        traced();
    REQUIRE(child > 0, "%s", strerror(errno));
    int signal = wait_for_stop();
    REQUIRE(signal == SIGSTOP, "signal %d", signal);
    follow_steps();
    follow_calls();
    look_and_change();
    breakpoints();
    kill(child, SIGKILL);
    REQUIRE(waitpid(child, NULL, 0) == child, "%s", strerror(errno));
}
