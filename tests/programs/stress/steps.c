// Single steps by the trap flag: one signal for each instruction, none lost and none too many, over system calls too.

#include "stress.h"

#include <signal.h>
#include <ucontext.h>

// See steps.S: each sets the trap flag, does a known number of instructions, and clears it; returns what the last of them left in rax.
uint64_t step_nops(void);
uint64_t step_syscall(void);
uint64_t step_int80(void);
uint64_t step_int3(void);

static volatile int count, breakpoints;
static volatile uint64_t first, path;

static void on_trap(int, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    if (registers[REG_TRAPNO] == 3) {
        breakpoints++;
        return;
    }
    REQUIRE(info->si_code == TRAP_TRACE, "code %d", info->si_code);
    if (count++ == 0)
        first = registers[REG_RIP];
    path = path * 31 + (registers[REG_RIP] - first);
}

static void begin(void)
{
    count = breakpoints = 0;
    path = first = 0;
}

static void end(int expected)
{
    REQUIRE(count == expected, "%d traps, not %d", count, expected);
    note(count);
    note(breakpoints);
    note(path);
}

void steps(void)
{
    handle(SIGTRAP, on_trap);
    for (int i = 0; i < 3; i++) {
        begin();
        step_nops();
        end(8 + 4);
        // An instruction that enters the kernel does not trap: the flag is off before it is done.
        begin();
        long pid = step_syscall();
        end(2 + 4);
        REQUIRE(pid == kernel(39), "getpid gives %ld", pid);
        begin();
        pid = step_int80();
        end(2 + 4);
        REQUIRE(pid == kernel(39), "getpid gives %ld", pid);
        begin();
        step_int3();
        end(3 + 4);
        REQUIRE(breakpoints == 1, "%d breakpoints", breakpoints);
    }
    signal(SIGTRAP, SIG_DFL);
}
