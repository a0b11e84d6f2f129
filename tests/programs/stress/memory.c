// Memory as a program asks for it: fresh pages, copies on write, changed rights, moved and given back; what is in it is what was put there.

#include "stress.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGES = 96, SIZE = PAGES * 4096 };

static uint8_t *map(size_t size, int rights)
{
    uint8_t *memory = mmap(NULL, size, rights, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(memory != MAP_FAILED, "%s", strerror(errno));
    return memory;
}

static uint64_t sum(const uint8_t *memory, size_t size)
{
    uint64_t sum = 0;
    for (size_t at = 0; at < size; at += 8) {
        uint64_t word;
        memcpy(&word, memory + at, 8);
        sum = sum * 31 + word;
    }
    return sum;
}

static void fill(uint8_t *memory, size_t size, uint64_t seed)
{
    for (size_t at = 0; at < size; at += 8) {
        seed = seed * 6364136223846793005 + 1442695040888963407;
        memcpy(memory + at, &seed, 8);
    }
}

static void fresh(void)
{
    uint8_t *memory = map(SIZE, PROT_READ | PROT_WRITE);
    note(sum(memory, SIZE));
    fill(memory, SIZE, 1);
    note(sum(memory, SIZE));
    note(madvise(memory, SIZE / 2, MADV_DONTNEED));
    note(sum(memory, SIZE));
    uint8_t *moved = mremap(memory, SIZE, 2 * SIZE, MREMAP_MAYMOVE);
    REQUIRE(moved != MAP_FAILED, "%s", strerror(errno));
    note(sum(moved, 2 * SIZE));
    note(munmap(moved + SIZE, SIZE));
    for (int page = 0; page < PAGES; page += 2)
        note(mprotect(moved + page * 4096, 4096, PROT_READ));
    for (int page = 1; page < PAGES; page += 2)
        moved[page * 4096] = page;
    for (int page = 0; page < PAGES; page += 2)
        note(mprotect(moved + page * 4096, 4096, PROT_READ | PROT_WRITE));
    note(sum(moved, SIZE));
    note(munmap(moved, SIZE));
}

static void copies(void)
{
    uint8_t *own = map(SIZE, PROT_READ | PROT_WRITE);
    uint64_t *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    fill(own, SIZE, 2);
    pid_t child = fork();
    if (child == 0) {
        shared[0] = sum(own, SIZE);
        fill(own, SIZE, 3);
        shared[1] = sum(own, SIZE);
        _exit(0);
    }
    for (int page = 0; page < PAGES; page += 3)
        own[page * 4096 + 7] = 1;
    REQUIRE(waitpid(child, NULL, 0) == child, "%s", strerror(errno));
    note(shared[0]);
    note(shared[1]);
    note(sum(own, SIZE));
    munmap(own, SIZE);
    munmap(shared, 4096);
}

// Code that is written, executed, changed and executed again.
static void code(void)
{
    uint8_t *page = map(4096, PROT_READ | PROT_WRITE);
    for (uint32_t i = 0; i < 20; i++) {
        uint8_t text[] = {0xb8, i, i * 3, 0, 0, 0xc3}; // mov $imm32, %eax; ret
        mprotect(page, 4096, PROT_READ | PROT_WRITE);
        memcpy(page + i * 8, text, sizeof(text));
        mprotect(page, 4096, PROT_READ | PROT_EXEC);
        uint32_t (*function)(void);
        uint8_t *start = page + i * 8;
        memcpy(&function, &start, sizeof(function));
        note(function());
    }
    munmap(page, 4096);
    page = map(4096, PROT_READ | PROT_WRITE | PROT_EXEC);
    for (uint8_t i = 0; i < 20; i++) {
        uint8_t text[] = {0x8d, 0x47, i, 0xc3}; // lea i(%rdi), %eax; ret
        memcpy(page, text, sizeof(text));
        uint32_t (*function)(uint64_t);
        memcpy(&function, &page, sizeof(function));
        note(function(1000));
    }
    munmap(page, 4096);
}

static void files(void)
{
    int file = memfd_create("shared", 0);
    note(ftruncate(file, SIZE));
    uint8_t *shared = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    uint8_t *private = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    fill(shared, SIZE, 4);
    note(sum(private, SIZE));
    private[0] ^= 0xff;
    shared[8] ^= 0xff;
    note(sum(private, SIZE));
    note(sum(shared, SIZE));
    uint8_t part[4096];
    for (int page = 0; page < PAGES; page += 16) {
        note(pread(file, part, sizeof(part), page * 4096));
        note(sum(part, sizeof(part)));
    }
    munmap(shared, SIZE);
    munmap(private, SIZE);
    close(file);
}

void memory(void)
{
    fresh();
    copies();
    code();
    files();
}
