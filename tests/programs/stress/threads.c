// Threads of one address space: futexes, their own data, and memory that is taken from under all of them.

#include "stress.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 4, TURNS = 200 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t barrier;
static uint64_t counter;
static __thread uint64_t own;

static void *add(void *number)
{
    own = (uintptr_t)number;
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < TURNS; i++) {
        pthread_mutex_lock(&mutex);
        uint64_t seen = counter;
        if (i % 16 == 0)
            sched_yield();
        counter = seen + 1;
        pthread_mutex_unlock(&mutex);
        own++;
    }
    return (void *)own;
}

static void together(void)
{
    pthread_t threads[THREADS];
    counter = 0;
    pthread_barrier_init(&barrier, NULL, THREADS);
    for (uintptr_t i = 0; i < THREADS; i++)
        REQUIRE(pthread_create(&threads[i], NULL, add, (void *)(i * 1000)) == 0, "thread %ld", i);
    for (int i = 0; i < THREADS; i++) {
        void *result;
        pthread_join(threads[i], &result);
        note((uintptr_t)result);
    }
    note(counter);
    pthread_barrier_destroy(&barrier);
}

static uint32_t turn;

static void wait_for(uint32_t value)
{
    uint32_t seen;
    while ((seen = __atomic_load_n(&turn, __ATOMIC_ACQUIRE)) != value)
        kernel(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, seen, NULL);
}

static void pass(uint32_t value)
{
    __atomic_store_n(&turn, value, __ATOMIC_RELEASE);
    kernel(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1);
}

static void *answer(void *unused)
{
    (void)unused;
    for (uint32_t i = 0; i < TURNS; i++) {
        wait_for(2 * i + 1);
        pass(2 * i + 2);
    }
    return NULL;
}

static void in_turns(void)
{
    pthread_t thread;
    turn = 0;
    REQUIRE(pthread_create(&thread, NULL, answer, NULL) == 0, "%d", 0);
    for (uint32_t i = 0; i < TURNS; i++) {
        pass(2 * i + 1);
        wait_for(2 * i + 2);
    }
    pthread_join(thread, NULL);
    note(turn);
    struct timespec short_while = {0, 1000000};
    note(kernel(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, turn, &short_while));
}

// One thread writes to pages whose rights and contents another one changes: every processor has to hear of it.
static uint8_t *shared;
static volatile int stop;

static void *touch(void *unused)
{
    (void)unused;
    uint64_t count = 0;
    while (!stop)
        for (int page = 0; page < 8; page++) {
            shared[page * 4096 + 1]++;
            count++;
        }
    return (void *)count;
}

static void taken_away(void)
{
    pthread_t thread;
    shared = mmap(NULL, 8 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stop = 0;
    REQUIRE(pthread_create(&thread, NULL, touch, NULL) == 0, "%d", 0);
    for (int i = 0; i < 40; i++) {
        note(madvise(shared, 8 * 4096, MADV_DONTNEED));
        sched_yield();
        note(mprotect(shared, 8 * 4096, PROT_READ | PROT_WRITE | (i % 2 ? PROT_EXEC : 0)));
    }
    stop = 1;
    pthread_join(thread, NULL);
    munmap(shared, 8 * 4096);
}

void threads(void)
{
    together();
    in_turns();
    taken_away();
}
