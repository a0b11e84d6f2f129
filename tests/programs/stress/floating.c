// What the processor keeps beside the general registers: vectors, their control word, segment bases. They outlive signals and other processes.

#include "stress.h"

#include <asm/prctl.h>
#include <errno.h>
#include <immintrin.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void spoil(void)
{
    __m128i ones = _mm_set1_epi8(-1);
    asm volatile("movdqa %0, %%xmm0; movdqa %0, %%xmm7; movdqa %0, %%xmm15; fninit; fldpi" ::"x"(ones) : "xmm7", "xmm15");
}

static void on_signal(int, siginfo_t *, void *)
{
    spoil();
}

static void over(void (*what)(void))
{
    uint64_t in[4] = {0x1122334455667788, 0x99aabbccddeeff00, 0x0f1e2d3c4b5a6978, 0x8796a5b4c3d2e1f0}, out[4];
    uint32_t control = 0x1f80 | 0x6000, after; // towards zero
    double x87 = 0;
    asm volatile("fninit; fldpi; fldl2e");
    asm volatile("ldmxcsr %0" ::"m"(control));
    asm volatile("movdqu %4, %%xmm6; movdqu %5, %%xmm14\n\t"
                 "mov %%rsp, %%rbx; and $-16, %%rsp; sub $128, %%rsp; call *%6; mov %%rbx, %%rsp\n\t"
                 "movdqu %%xmm6, %0; movdqu %%xmm14, %1\n\t"
                 "stmxcsr %2; fstpl %3"
                 : "=m"(out[0]), "=m"(out[2]), "=m"(after), "=m"(x87)
                 : "m"(in[0]), "m"(in[2]), "r"(what)
                 : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "xmm6", "xmm14", "memory");
    uint32_t usual = 0x1f80;
    asm volatile("fninit; ldmxcsr %0" ::"m"(usual));
    REQUIRE((after & ~0x3f) == control, "mxcsr is %x", after);
    REQUIRE(x87 > 1.44 && x87 < 1.45, "st is %f", x87);
    REQUIRE(memcmp(in, out, sizeof(in)) == 0, "%lx %lx %lx %lx", out[0], out[1], out[2], out[3]);
    note(after & ~0x3f);
}

static void by_signal(void)
{
    kernel(SYS_kill, kernel(SYS_getpid), SIGUSR1);
}

static void by_yield(void)
{
    for (int i = 0; i < 20; i++)
        kernel(SYS_sched_yield);
}

void floating(void)
{
    handle(SIGUSR1, on_signal);
    // Another process, which wants the processor and its registers too.
    pid_t other = fork();
    if (other == 0)
        for (;;) {
            spoil();
            sched_yield();
        }
    REQUIRE(other > 0, "%s", strerror(errno));
    for (int i = 0; i < 20; i++) {
        over(by_signal);
        over(by_yield);
    }
    uint64_t base;
    for (uint64_t gs = 0x1000; gs < 0x7fffffff0000; gs *= 7) {
        note(kernel(SYS_arch_prctl, ARCH_SET_GS, gs));
        by_yield();
        by_signal();
        note(kernel(SYS_arch_prctl, ARCH_GET_GS, &base));
        REQUIRE(base == gs, "the base of gs is %lx, not %lx", base, gs);
    }
    note(kernel(SYS_arch_prctl, ARCH_SET_GS, 0xffff888000000000));
    note(kernel(SYS_arch_prctl, ARCH_SET_GS, 0));
    kill(other, SIGKILL);
    REQUIRE(waitpid(other, NULL, 0) == other, "%s", strerror(errno));
    signal(SIGUSR1, SIG_DFL);
}
