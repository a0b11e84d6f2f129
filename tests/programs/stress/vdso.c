// The pages that the kernel gives every program: the vDSO, and where it is offered the vsyscall page, which answers calls by faulting.

#include "stress.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static uint64_t nanoseconds(const struct timespec *time)
{
    return time->tv_sec * 1000000000ull + time->tv_nsec;
}

static void clocks(void)
{
    static const clockid_t all[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME,
                                    CLOCK_PROCESS_CPUTIME_ID};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        for (int turn = 0; turn < 50; turn++) {
            struct timespec before, between, after;
            note(kernel(SYS_clock_gettime, all[i], &before));
            note(clock_gettime(all[i], &between));
            note(kernel(SYS_clock_gettime, all[i], &after));
            REQUIRE(nanoseconds(&before) <= nanoseconds(&between) && nanoseconds(&between) <= nanoseconds(&after), "clock %d: %ld, %ld, %ld",
                    all[i], nanoseconds(&before), nanoseconds(&between), nanoseconds(&after));
        }
    unsigned cpu, node;
    note(getcpu(&cpu, &node));
    note(cpu < 64);
    struct timeval time_of_day;
    note(gettimeofday(&time_of_day, NULL));
    // The kernel's seconds begin with a tick, and are behind for a part of it.
    time_t seconds = time(NULL);
    REQUIRE(seconds >= time_of_day.tv_sec - 1 && seconds <= time_of_day.tv_sec + 5, "%ld, %ld", seconds, time_of_day.tv_sec);
}

static bool has_vsyscall(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    bool found = false;
    while (maps && fgets(line, sizeof(line), maps))
        found |= strstr(line, "[vsyscall]") && strstr(line, "xp ");
    if (maps)
        fclose(maps);
    return found;
}

static void vsyscalls(void)
{
    bool there = has_vsyscall();
    note(there);
    if (!there)
        return;
    long (*volatile time_of_day)(struct timeval *, void *) = (void *)0xffffffffff600000;
    long (*volatile seconds)(long *) = (void *)0xffffffffff600400;
    long (*volatile cpu_of)(unsigned *, unsigned *, void *) = (void *)0xffffffffff600800;
    for (int i = 0; i < 50; i++) {
        struct timeval now, then;
        gettimeofday(&now, NULL);
        note(time_of_day(&then, NULL));
        REQUIRE(timercmp(&now, &then, <=), "%ld.%06ld after %ld.%06ld", then.tv_sec, then.tv_usec, now.tv_sec, now.tv_usec);
        long told = 0;
        REQUIRE(seconds(&told) == told && told >= now.tv_sec - 1, "%ld after %ld", told, now.tv_sec);
        unsigned cpu = 1000, node;
        note(cpu_of(&cpu, &node, NULL));
        note(cpu < 64);
    }
}

void vdso(void)
{
    const uint8_t *image = (const uint8_t *)getauxval(AT_SYSINFO_EHDR);
    REQUIRE(image && memcmp(image, "\x7f" "ELF", 4) == 0, "%p", image);
    clocks();
    vsyscalls();
}
