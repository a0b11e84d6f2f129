// What the kernel has to leave alone: every register over a system call, a page fault, and interrupts that come at any moment.

#include "stress.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#define COUNT 15
enum { RAX, RBX, RCX, RDX, RSI, RDI, RBP, R8, R9, R10, R11, R12, R13, R14, R15 };
#define PATTERN(index) (0x0101010101010101ull * (index + 1) ^ 0xa5a5a5a500000000ull)

// See registers.S: loads the registers from `values`, does it, stores them there again.
void over_syscall(uint64_t values[COUNT]);
void over_touch(uint64_t values[COUNT]);
void over_int80(uint64_t values[COUNT]);
// Loops until *flag is set.
void over_loop(uint64_t values[COUNT]);

volatile uint32_t registers_flag;

static void fill(uint64_t values[COUNT])
{
    for (int i = 0; i < COUNT; i++)
        values[i] = PATTERN(i);
}

static void compare(const uint64_t values[COUNT], const char *what, uint32_t changed)
{
    for (int i = 0; i < COUNT; i++)
        if (!(changed >> i & 1))
            REQUIRE(values[i] == PATTERN(i), "%s: register %d is %lx", what, i, values[i]);
}

static void set_flag(int, siginfo_t *, void *)
{
    static int count;
    if (++count % 4 == 0)
        registers_flag = 1;
}

void registers(void)
{
    uint64_t values[COUNT];
    for (int i = 0; i < 200; i++) {
        fill(values);
        values[RAX] = SYS_getppid;
        over_syscall(values);
        compare(values, "syscall", 1 << RAX | 1 << RCX | 1 << R11);
        note((pid_t)values[RAX] == getppid());
        // SYSCALL leaves the flags in R11: interrupts on, and the bit that is always set.
        note(values[R11] & 0x202);
    }
    for (int i = 0; i < 50; i++) {
        fill(values);
        values[RAX] = 64; // getppid by the 32-bit table
        over_int80(values);
        // The kernel clears R8 to R11, or leaves them; the low half of the result counts.
        compare(values, "int 0x80", 1 << RAX | 0xf << R8);
        note((pid_t)values[RAX] == getppid());
    }
    size_t size = 64 * 4096;
    uint8_t *fresh = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(fresh != MAP_FAILED, "%s", strerror(errno));
    for (size_t at = 0; at < size; at += 4096) {
        fill(values);
        values[RDI] = (uintptr_t)fresh + at;
        over_touch(values);
        compare(values, "page fault", 1 << RDI);
        note(fresh[at]);
    }
    munmap(fresh, size);

    handle(SIGALRM, set_flag);
    struct itimerval often = {{0, 2000}, {0, 2000}}, never = {{0, 0}, {0, 0}};
    registers_flag = 0;
    setitimer(ITIMER_REAL, &often, NULL);
    fill(values);
    over_loop(values);
    setitimer(ITIMER_REAL, &never, NULL);
    compare(values, "interrupts", 0);
    signal(SIGALRM, SIG_DFL);
}
