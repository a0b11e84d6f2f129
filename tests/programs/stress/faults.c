// Exceptions in user mode, each as the signal that the kernel makes of it: which, why, where, and what the processor said.

#include "stress.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

// The page-fault error code's bits; see Intel SDM vol. 3A, "Page-Fault Exceptions".
enum { PRESENT = 1, WRITE = 2, USER = 4, FETCH = 16 };
enum { DIVIDE = 0, DEBUG = 1, BREAKPOINT = 3, OVERFLOW = 4, INVALID = 6, PROTECTION = 13, PAGE = 14, X87 = 16, ALIGNMENT = 17, SIMD = 19 };

// See faults.S: each does one thing to `address`, and returns even if a signal came in between.
typedef void action(uint64_t address);
action do_read, do_write, do_fetch, do_int3, do_int3_long, do_icebp, do_into, do_ud2, do_hlt, do_cli, do_in, do_divide, do_x87, do_simd,
    do_unaligned, do_int_page, do_int_free, do_int_nmi, do_read_stack, do_mov_cr3, do_lgdt, do_wrmsr, do_bad_segment;
// Where the one at work goes on, for the handler.
uint64_t faults_resume;

static struct {
    volatile int count;
    int signal, code;
    uint64_t address, trap, error, cr2;
} caught;

static void on_fault(int signal, siginfo_t *info, void *context)
{
    // A handler is entered with AC as it was.
    asm volatile("pushfq; andq $~0x40000, (%%rsp); popfq" ::: "memory", "cc");
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    caught.count++;
    caught.signal = signal;
    caught.code = info->si_code;
    caught.address = (uintptr_t)info->si_addr;
    caught.trap = registers[REG_TRAPNO];
    caught.error = registers[REG_ERR];
    caught.cr2 = registers[REG_CR2];
    registers[REG_RIP] = faults_resume;
    registers[REG_EFL] &= ~(1l << 18); // AC
}

static void provoke(action *action, uint64_t address)
{
    caught.count = 0;
    action(address);
    REQUIRE(caught.count == 1, "%d signals for %lx", caught.count, address);
    note(caught.signal);
    note(caught.code);
    note(caught.trap);
    note(caught.error);
}

static void page_fault(action *action, uint64_t address, int signal, int code, uint64_t error)
{
    provoke(action, address);
    REQUIRE(caught.signal == signal && caught.code == code, "%lx: signal %d, code %d", address, caught.signal, caught.code);
    REQUIRE(caught.address == address && caught.cr2 == address, "%lx: si_addr %lx, cr2 %lx", address, caught.address, caught.cr2);
    REQUIRE(caught.trap == PAGE && caught.error == error, "%lx: trap %ld, error %lx", address, caught.trap, caught.error);
}

// Where kernels have had something since KASLR is known, and where this one has: its code, the end of that, where system calls enter, and its data.
static uint64_t kernel_addresses[12] = {
    0xffff800000000000, 0xffff888000000000, 0xffff888001000000, 0xffffc90000000000, 0xffffea0000000000,
    0xfffffe0000000000, 0xffffffff81000000, 0xffffffffff600000, 0xfffffffffffff000,
};
enum { GUESSED = 9, FOUND = 3 };

// Only the first of all symbols is looked for: on an emulator reading the others takes longer than all the rest of a round.
static uint64_t find_text(void)
{
    FILE *symbols = fopen("/proc/kallsyms", "r");
    REQUIRE(symbols != NULL, "kallsyms: %s", strerror(errno));
    char line[512], name[256];
    uint64_t address, text = 0;
    while (text == 0 && fgets(line, sizeof(line), symbols))
        if (sscanf(line, "%lx %*c %255s", &address, name) == 2 && strcmp(name, "_text") == 0)
            text = address;
    fclose(symbols);
    return text;
}

void find_kernel(void)
{
    uint64_t text = find_text(), code = 0, code_end = 0, data = 0;
    FILE *memory = fopen("/proc/iomem", "r");
    REQUIRE(memory != NULL, "iomem: %s", strerror(errno));
    char line[512], name[256];
    uint64_t first, last;
    while (fgets(line, sizeof(line), memory)) {
        if (sscanf(line, " %lx-%lx : Kernel %255s", &first, &last, name) != 3)
            continue;
        if (strcmp(name, "code") == 0) {
            code = first;
            code_end = last;
        } else if (strcmp(name, "data") == 0) {
            data = first;
        }
    }
    fclose(memory);
    REQUIRE(text > 0xffff800000000000 && 0 < code && code < code_end && code_end < data, "%lx: %lx, %lx, %lx", text, code, code_end, data);
    uint64_t found[FOUND] = {text, text + ((code_end - code) & ~0xfffull), text + (data - code)};
    memcpy(&kernel_addresses[GUESSED], found, sizeof(found));
}

// User mode must not see of a kernel address whether there is something: it is always as if there were a page that is not the user's.
static void kernel_half(void)
{
    for (int i = 0; i < GUESSED + FOUND; i++) {
        uint64_t address = kernel_addresses[i];
        page_fault(do_read, address, SIGSEGV, SEGV_MAPERR, USER | PRESENT);
        page_fault(do_write, address, SIGSEGV, SEGV_MAPERR, USER | PRESENT | WRITE);
        // This page answers calls.
        if (address != 0xffffffffff600000)
            page_fault(do_fetch, address, SIGSEGV, SEGV_MAPERR, USER | PRESENT | FETCH);
    }
}

static void user_half(void)
{
    uint8_t *page = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(page != MAP_FAILED, "%s", strerror(errno));
    memset(page, 0x90, 3 * 4096);
    uint64_t address = (uintptr_t)page;
    page_fault(do_fetch, address, SIGSEGV, SEGV_ACCERR, USER | PRESENT | FETCH);
    mprotect(page, 4096, PROT_READ);
    page_fault(do_write, address + 5, SIGSEGV, SEGV_ACCERR, USER | PRESENT | WRITE);
    mprotect(page, 4096, PROT_NONE);
    page_fault(do_read, address + 6, SIGSEGV, SEGV_ACCERR, USER);
    page_fault(do_fetch, address, SIGSEGV, SEGV_ACCERR, USER | FETCH);
    munmap(page + 4096, 4096);
    page_fault(do_read, address + 4096, SIGSEGV, SEGV_MAPERR, USER);
    page_fault(do_write, address + 8191, SIGSEGV, SEGV_MAPERR, USER | WRITE);
    page_fault(do_fetch, address + 4096, SIGSEGV, SEGV_MAPERR, USER | FETCH);
    munmap(page, 3 * 4096);
    page_fault(do_read, 8, SIGSEGV, SEGV_MAPERR, USER);
    // The page that ends the user half counts as the kernel's.
    page_fault(do_read, 0x7ffffffff000, SIGSEGV, SEGV_MAPERR, USER | PRESENT);

    int file = memfd_create("empty", 0);
    page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, file, 0);
    page_fault(do_read, (uintptr_t)page, SIGBUS, BUS_ADRERR, USER);
    munmap(page, 4096);
    close(file);
}

static void other(action *action, int signal, int code, uint64_t trap, uint64_t error)
{
    provoke(action, 0);
    REQUIRE(caught.signal == signal && caught.code == code && caught.trap == trap && caught.error == error,
            "signal %d, code %d, trap %ld, error %lx, not signal %d, code %d, trap %ld, error %lx", caught.signal, caught.code, caught.trap,
            caught.error, signal, code, trap, error);
}

void faults(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        handle(signals[i], on_fault);
    user_half();
    kernel_half();
    // No page fault: the address is none.
    provoke(do_read, 0x800000000000);
    REQUIRE(caught.trap == PROTECTION && caught.error == 0 && caught.code == SI_KERNEL, "trap %ld", caught.trap);
    provoke(do_fetch, 0x0123456789abcdef);
    provoke(do_read_stack, 0x800000000000);
    other(do_int3, SIGTRAP, SI_KERNEL, BREAKPOINT, 0);
    other(do_int3_long, SIGTRAP, SI_KERNEL, BREAKPOINT, 0);
    other(do_icebp, SIGTRAP, TRAP_BRKPT, DEBUG, 0);
    other(do_into, SIGSEGV, SI_KERNEL, OVERFLOW, 0);
    other(do_divide, SIGFPE, FPE_INTDIV, DIVIDE, 0);
    other(do_x87, SIGFPE, FPE_FLTDIV, X87, 0);
    other(do_simd, SIGFPE, FPE_FLTDIV, SIMD, 0);
    other(do_ud2, SIGILL, ILL_ILLOPN, INVALID, 0);
    other(do_unaligned, SIGBUS, BUS_ADRALN, ALIGNMENT, 0);
    static action *const privileged[] = {do_hlt, do_cli, do_in, do_mov_cr3, do_lgdt, do_wrmsr};
    for (size_t i = 0; i < sizeof(privileged) / sizeof(privileged[0]); i++)
        other(privileged[i], SIGSEGV, SI_KERNEL, PROTECTION, 0);
    // A gate that user mode may not use: the error code is where it is.
    other(do_int_nmi, SIGSEGV, SI_KERNEL, PROTECTION, 2 * 8 + 2);
    other(do_int_page, SIGSEGV, SI_KERNEL, PROTECTION, 14 * 8 + 2);
    other(do_int_free, SIGSEGV, SI_KERNEL, PROTECTION, 0x60 * 8 + 2);
    other(do_bad_segment, SIGSEGV, SI_KERNEL, PROTECTION, 0x10);
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        signal(signals[i], SIG_DFL);
}
