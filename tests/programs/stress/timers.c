// Time that passes: timers that fire as often as they were asked to, sleeps that are not too short, clocks that only go forward.

#include "stress.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static volatile int fired, expirations;

static void on_timer(int, siginfo_t *, void *)
{
    fired++;
}

static void on_counted(int, siginfo_t *info, void *)
{
    expirations += 1 + info->si_overrun;
}

static void by_interval(int which, int signal_number, long microseconds)
{
    struct itimerval often = {{0, microseconds}, {0, microseconds}}, never = {{0, 0}, {0, 0}};
    handle(signal_number, on_timer);
    fired = 0;
    uint64_t begin = now();
    REQUIRE(setitimer(which, &often, NULL) == 0, "%s", strerror(errno));
    while (fired < 4) {
    }
    setitimer(which, &never, NULL);
    REQUIRE(now() - begin >= 4 * (uint64_t)microseconds * 1000 / 2 || which != ITIMER_REAL, "%ld ns", now() - begin);
    signal(signal_number, SIG_DFL);
    note(fired >= 4);
}

static void by_handle(clockid_t clock)
{
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 1};
    struct itimerspec often = {{0, 2000000}, {0, 2000000}};
    handle(SIGRTMIN + 1, on_counted);
    expirations = 0;
    REQUIRE(timer_create(clock, &event, &timer) == 0, "%s", strerror(errno));
    uint64_t begin = now();
    timer_settime(timer, 0, &often, NULL);
    while (expirations < 5)
        pause();
    uint64_t took = now() - begin;
    timer_delete(timer);
    REQUIRE(took >= 10000000, "5 times 2 ms took %ld ns", took);
    signal(SIGRTMIN + 1, SIG_DFL);
    note(expirations >= 5);
}

static void by_file(void)
{
    int file = timerfd_create(CLOCK_MONOTONIC, 0);
    struct itimerspec often = {{0, 2000000}, {0, 2000000}};
    uint64_t total = 0, count;
    timerfd_settime(file, 0, &often, NULL);
    while (total < 4) {
        REQUIRE(read(file, &count, sizeof(count)) == sizeof(count), "%s", strerror(errno));
        total += count;
    }
    note(total >= 4);
    close(file);
}

static void sleeps(void)
{
    for (long nanoseconds = 1000; nanoseconds < 5000000; nanoseconds *= 5) {
        struct timespec nap = {0, nanoseconds};
        uint64_t begin = now();
        note(nanosleep(&nap, NULL));
        uint64_t took = now() - begin;
        REQUIRE(took >= (uint64_t)nanoseconds, "%ld ns took %ld ns", nanoseconds, took);
    }
    struct timespec then;
    clock_gettime(CLOCK_MONOTONIC, &then);
    then.tv_nsec += 2000000;
    if (then.tv_nsec >= 1000000000) {
        then.tv_nsec -= 1000000000;
        then.tv_sec++;
    }
    note(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &then, NULL));
    uint64_t deadline = then.tv_sec * 1000000000ull + then.tv_nsec;
    REQUIRE(now() >= deadline, "%ld ns too early", deadline - now());
    note(poll(NULL, 0, 2));
}

static void clocks(void)
{
    uint64_t last = now();
    for (int i = 0; i < 2000; i++) {
        uint64_t next = now();
        REQUIRE(next >= last, "%ld after %ld", next, last);
        last = next;
    }
}

void timers(void)
{
    by_interval(ITIMER_REAL, SIGALRM, 1500);
    by_interval(ITIMER_VIRTUAL, SIGVTALRM, 4000);
    by_interval(ITIMER_PROF, SIGPROF, 4000);
    by_handle(CLOCK_MONOTONIC);
    by_handle(CLOCK_REALTIME);
    by_file();
    sleeps();
    clocks();
}
