// Signals that are sent: queued, blocked, nested, on another stack, and what their handlers change of what they interrupted.

#include "stress.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static struct {
    int count, signals[64];
    uintptr_t values[64];
} got;

static void collect(int signal, siginfo_t *info, void *)
{
    if (got.count < 64) {
        got.signals[got.count] = signal;
        got.values[got.count] = (uintptr_t)info->si_value.sival_ptr;
    }
    got.count++;
}

static void send(int signal, uintptr_t value)
{
    REQUIRE(sigqueue(getpid(), signal, (union sigval){.sival_ptr = (void *)value}) == 0, "%s", strerror(errno));
}

// Real-time signals are delivered lowest first, each as often as it was sent.
static void queued(void)
{
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    for (int i = 0; i < 24; i++)
        send(SIGRTMIN + (i * 5) % 4, 0x1000 + i);
    got.count = 0;
    for (int i = 0; i < 4; i++)
        handle(SIGRTMIN + i, collect);
    sigprocmask(SIG_SETMASK, &before, NULL);
    REQUIRE(got.count == 24, "%d", got.count);
    uint64_t sum = 0;
    for (int i = 0; i < 24; i++)
        sum += got.values[i] * (got.signals[i] - SIGRTMIN + 1);
    note(sum);
    for (int i = 0; i < 4; i++)
        signal(SIGRTMIN + i, SIG_DFL);
}

static void waited_for(void)
{
    sigset_t one, before;
    sigemptyset(&one);
    sigaddset(&one, SIGUSR2);
    sigprocmask(SIG_BLOCK, &one, &before);
    struct timespec short_while = {0, 1000000};
    siginfo_t info;
    note(sigtimedwait(&one, &info, &short_while) == -1 && errno == EAGAIN);
    for (int i = 0; i < 10; i++) {
        send(SIGUSR2, i);
        note(sigtimedwait(&one, &info, &short_while));
        note(info.si_value.sival_int);
    }
    int file = signalfd(-1, &one, 0);
    send(SIGUSR2, 77);
    struct signalfd_siginfo read_info;
    note(read(file, &read_info, sizeof(read_info)));
    note(read_info.ssi_signo);
    note(read_info.ssi_ptr);
    close(file);
    sigprocmask(SIG_SETMASK, &before, NULL);
}

static volatile int depth, deepest;

static void nest(int signal, siginfo_t *, void *)
{
    depth++;
    if (depth > deepest)
        deepest = depth;
    if (signal < SIGRTMIN + 8)
        raise(signal + 1);
    depth--;
}

static void nested(void)
{
    for (int signal = SIGRTMIN; signal <= SIGRTMIN + 8; signal++)
        handle(signal, nest);
    deepest = 0;
    raise(SIGRTMIN);
    note(deepest);
    note(depth);
    for (int number = SIGRTMIN; number <= SIGRTMIN + 8; number++)
        signal(number, SIG_DFL);
}

// The handler runs on the stack that it was given, and what it leaves in the frame is what is gone on with.
static void change(int, siginfo_t *, void *context)
{
    stack_t stack;
    sigaltstack(NULL, &stack);
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    registers[REG_RAX] = stack.ss_flags;
    registers[REG_RBX] += 5;
    registers[REG_R12] ^= 0xff;
    registers[REG_R15] = 0x1234567890abcdef;
    registers[REG_EFL] ^= 1; // CF
}

static void changed(void)
{
    handle(SIGUSR1, change);
    long pid = getpid();
    for (uint64_t i = 0; i < 30; i++) {
        uint64_t rax = SYS_kill, rbx = i, r12, r15, carry;
        asm volatile("mov %5, %%r12\n\t"
                     "clc\n\t"
                     "syscall\n\t"
                     "setc %%cl\n\t"
                     "movzbl %%cl, %%ecx\n\t"
                     "mov %%r12, %2\n\t"
                     "mov %%r15, %3"
                     : "+a"(rax), "+b"(rbx), "=&r"(r12), "=&r"(r15), "=&c"(carry)
                     : "r"(i * 3), "D"(pid), "S"((long)SIGUSR1)
                     : "r11", "r12", "r15", "memory");
        note(rax);
        note(rbx);
        note(r12);
        REQUIRE(carry == 1 && r15 == 0x1234567890abcdef, "carry %ld, r15 %lx", carry, r15);
    }
    signal(SIGUSR1, SIG_DFL);
}

// A sleep that signals interrupt says how much of it is left.
static void interrupted(void)
{
    struct timespec nap = {10, 0}, left;
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    struct itimerspec often = {{0, 3000000}, {0, 3000000}};
    handle(SIGRTMIN, collect);
    REQUIRE(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0, "%s", strerror(errno));
    timer_settime(timer, 0, &often, NULL);
    for (int i = 0; i < 3; i++) {
        note(nanosleep(&nap, &left) == -1 && errno == EINTR);
        REQUIRE(left.tv_sec < 10 && left.tv_sec > 0, "%ld s", left.tv_sec);
    }
    timer_delete(timer);
    signal(SIGRTMIN, SIG_DFL);
}

void signals(void)
{
    queued();
    waited_for();
    nested();
    changed();
    interrupted();
}
