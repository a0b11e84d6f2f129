// 32-bit code in a 64-bit program: a far return into it, system calls by INT 0x80 out of it, faults in it, and back.

#include "stress.h"

#include <signal.h>
#include <stdio.h>
#include <ucontext.h>
#include <unistd.h>

// See compat.S.
uint32_t compat_call(uint32_t number, uint32_t argument);
uint32_t compat_fault(uint32_t address);
extern char compat_resume[];

static volatile int faults_seen;
static volatile uint64_t address, segment;

static void on_fault(int, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    faults_seen++;
    address = (uintptr_t)info->si_addr;
    segment = registers[REG_CSGSFS] & 0xffff;
    registers[REG_RIP] = (uintptr_t)compat_resume;
}

enum { GETPID = 20, GETUID = 24, CLOSE = 6, NANOSLEEP = 162, NOTHING = 0xfff };

void compat(void)
{
    for (int i = 0; i < 40; i++) {
        REQUIRE((pid_t)compat_call(GETPID, 0) == getpid(), "round %d", i);
        note(compat_call(GETUID, 0) == getuid());
        note(compat_call(CLOSE, 999));
        note(compat_call(NOTHING, 0));
        note(compat_call(NANOSLEEP, 0xffff0000));
    }
    handle(SIGSEGV, on_fault);
    static const uint32_t bad[] = {0, 0x1000, 0xfffff000, 0xfffffffc, 0x81000000};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        faults_seen = 0;
        note(compat_fault(bad[i]));
        REQUIRE(faults_seen == 1 && address == bad[i] && segment == 0x23, "%x: %d faults, at %lx by segment %lx", bad[i], faults_seen, address, segment);
    }
    signal(SIGSEGV, SIG_DFL);
}
