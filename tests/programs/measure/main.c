// Does one thing a number of times, for somebody who counts from outside what it takes.
//
//     measure getpid N     the cheapest system call
//     measure switch N     a byte to another process on the same processor, and one back: two switches
//     measure fault N      the first touch of a page
//     measure timer N      timer interrupts of user mode that computes
//
// Prints `measure: ready` and waits for a line; does it; prints `measure: done ROUNDS in TICKS ticks` and waits for another line. What comes before and
// after is the same however often it is done, so that the difference between two runs is what the rounds took.

#define _GNU_SOURCE
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t ticks(void)
{
    uint32_t low, high;
    asm volatile("lfence; rdtsc" : "=a"(low), "=d"(high)::"memory");
    return (uint64_t)high << 32 | low;
}

static _Noreturn void give_up(const char *what)
{
    perror(what);
    exit(1);
}

static void do_getpid(unsigned long count)
{
    for (unsigned long i = 0; i < count; i++)
        syscall(SYS_getpid);
}

static int to_other[2], from_other[2];

// The other process ends when nobody writes to it any more.
static void start_other(void)
{
    if (pipe(to_other) != 0 || pipe(from_other) != 0)
        give_up("pipe");
    pid_t other = fork();
    if (other < 0)
        give_up("fork");
    if (other > 0)
        return;
    char byte;
    close(to_other[1]);
    while (read(to_other[0], &byte, 1) == 1)
        if (write(from_other[1], &byte, 1) != 1)
            break;
    _exit(0);
}

static void do_switch(unsigned long count)
{
    char byte = 0;
    for (unsigned long i = 0; i < count; i++)
        if (write(to_other[1], &byte, 1) != 1 || read(from_other[0], &byte, 1) != 1)
            give_up("pipe");
}

// In parts, so that it takes little memory.
static void do_fault(unsigned long count)
{
    enum { PART = 1024 };
    while (count > 0) {
        unsigned long pages = count < PART ? count : PART;
        volatile char *memory = mmap(NULL, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED)
            give_up("mmap");
        for (unsigned long page = 0; page < pages; page++)
            memory[page * 4096] = 1;
        munmap((void *)memory, pages * 4096);
        count -= pages;
    }
}

// Local timer interrupts of the first processor since the start.
static unsigned long timer_interrupts(void)
{
    FILE *table = fopen("/proc/interrupts", "r");
    char line[1024];
    unsigned long count = 0;
    while (table && fgets(line, sizeof(line), table))
        if (sscanf(line, " LOC: %lu", &count) == 1)
            break;
    if (table)
        fclose(table);
    return count;
}

// Between looks at the count user mode computes for many of them.
static unsigned long do_timer(unsigned long count)
{
    unsigned long begin = timer_interrupts(), end;
    do {
        for (volatile uint32_t i = 0; i < 10000000; i++) {
        }
        end = timer_interrupts();
    } while (end - begin < count);
    return end - begin;
}

static void wait_for_line(void)
{
    char line[64];
    fflush(stdout);
    if (!fgets(line, sizeof(line), stdin))
        exit(1);
}

int main(int argc, char **argv)
{
    void (*what)(unsigned long) = NULL;
    bool timer = argc == 3 && strcmp(argv[1], "timer") == 0;
    if (argc == 3 && strcmp(argv[1], "getpid") == 0)
        what = do_getpid;
    else if (argc == 3 && strcmp(argv[1], "switch") == 0)
        what = do_switch;
    else if (argc == 3 && strcmp(argv[1], "fault") == 0)
        what = do_fault;
    else if (!timer) {
        fprintf(stderr, "usage: measure getpid|switch|fault|timer N\n");
        return 2;
    }
    unsigned long count = strtoul(argv[2], NULL, 10);
    cpu_set_t first;
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    if (sched_setaffinity(0, sizeof(first), &first) != 0)
        give_up("sched_setaffinity");
    // One fault a page, not one for many.
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    start_other();
    if (what)
        what(200);

    printf("measure: ready\n");
    wait_for_line();
    uint64_t begin = ticks();
    if (what)
        what(count);
    else
        count = do_timer(count);
    uint64_t took = ticks() - begin;
    printf("measure: done %lu in %lu ticks\n", count, took);
    wait_for_line();
    close(to_other[1]);
    wait(NULL);
    return 0;
}
