// System calls of many kinds, with what they have to answer: the right things, and the right errors.

#include "stress.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <unistd.h>

static void identity(void)
{
    long pid = kernel(SYS_getpid);
    for (int i = 0; i < 100; i++)
        REQUIRE(kernel(SYS_getpid) == pid, "%ld", pid);
    note(pid == getpid());
    note(kernel(SYS_gettid) == pid);
    note(kernel(SYS_getuid) == getuid());
    note(kernel(SYS_getpgid, 0) == getpgrp());
    struct utsname name;
    note(uname(&name));
    note(strcmp(name.machine, "x86_64") == 0);
}

// What the kernel has to refuse.
static void errors(void)
{
    // Numbers that no kernel has had: 335 and 336 came after 6.1, and are for those that know them.
    static const long unknown[] = {400, 423, 511, 600, 1000, 0x3fffffff, -1};
    for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++) {
        long result = kernel(unknown[i]);
        REQUIRE(result == -ENOSYS, "%ld: %ld", unknown[i], result);
    }
    // Nobody's memory, and the kernel's.
    static const uint64_t bad[] = {8, 0x7ffffffff000, 0x800000000000, 0xffff888000000000, 0xffffffff81000000, -4096ul, -8ul};
    int pipe[2];
    REQUIRE(pipe2(pipe, O_NONBLOCK) == 0, "%s", strerror(errno));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        note(kernel(SYS_write, pipe[1], bad[i], 8));
        note(kernel(SYS_read, pipe[0], bad[i], 8));
        note(kernel(SYS_uname, bad[i]));
        note(kernel(SYS_openat, AT_FDCWD, bad[i], O_RDONLY));
        note(kernel(SYS_clock_gettime, 1, bad[i]));
        note(kernel(SYS_munmap, bad[i] & ~4095ul, 4096) < 0);
    }
    note(kernel(SYS_read, 999, bad, 8));
    note(kernel(SYS_close, 999));
    close(pipe[0]);
    close(pipe[1]);
}

static void files(void)
{
    char name[] = "/tmp/stress-XXXXXX", text[64];
    int file = mkstemp(name);
    REQUIRE(file >= 0, "%s", strerror(errno));
    for (int i = 0; i < 50; i++) {
        int length = snprintf(text, sizeof(text), "line %d\n", i);
        REQUIRE(write(file, text, length) == length, "%s", strerror(errno));
    }
    note(lseek(file, 0, SEEK_END));
    note(lseek(file, 100, SEEK_SET));
    note(read(file, text, 32));
    for (int i = 0; i < 32; i++)
        note(text[i]);
    struct stat state;
    note(fstat(file, &state));
    note(state.st_size);
    note(ftruncate(file, 77));
    int copy = dup(file);
    note(lseek(copy, 0, SEEK_CUR));
    note(fcntl(copy, F_SETFD, FD_CLOEXEC));
    note(fcntl(copy, F_GETFD));
    close(copy);
    close(file);
    note(stat(name, &state));
    note(state.st_size);
    note(unlink(name));
    note(kernel(SYS_open, name, O_RDONLY, 0));
    char directory[256];
    note(kernel(SYS_getcwd, directory, sizeof(directory)) > 0);
    struct rlimit limit;
    note(getrlimit(RLIMIT_NOFILE, &limit));
}

static void channels(void)
{
    int pair[2], queue = epoll_create1(0), event = eventfd(3, EFD_NONBLOCK);
    REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0, "%s", strerror(errno));
    struct epoll_event interest = {.events = EPOLLIN, .data.u32 = 7}, found;
    note(epoll_ctl(queue, EPOLL_CTL_ADD, pair[1], &interest));
    note(epoll_wait(queue, &found, 1, 0));
    for (int i = 1; i <= 20; i++) {
        char one[16], two[16], in[32];
        memset(one, i, sizeof(one));
        memset(two, ~i, sizeof(two));
        struct iovec out[2] = {{one, sizeof(one)}, {two, i % 16}};
        struct msghdr message = {.msg_iov = out, .msg_iovlen = 2};
        note(sendmsg(pair[0], &message, 0));
        note(epoll_wait(queue, &found, 1, -1));
        note(found.data.u32);
        ssize_t got = read(pair[1], in, sizeof(in));
        for (ssize_t byte = 0; byte < got; byte++)
            note((uint8_t)in[byte]);
    }
    uint64_t value = 4;
    note(write(event, &value, sizeof(value)));
    note(read(event, &value, sizeof(value)));
    note(value);
    note(kernel(SYS_read, event, &value, sizeof(value)));
    struct pollfd polled = {.fd = pair[0], .events = POLLIN | POLLOUT};
    note(poll(&polled, 1, 0));
    note(polled.revents);
    uint32_t word = 5;
    note(kernel(SYS_futex, &word, FUTEX_WAIT, 6, NULL));
    note(kernel(SYS_futex, &word, FUTEX_WAKE, 1));
    close(queue);
    close(event);
    close(pair[0]);
    close(pair[1]);
}

void calls(void)
{
    identity();
    errors();
    files();
    channels();
    for (int i = 0; i < 50; i++)
        sched_yield();
    struct rusage usage;
    note(getrusage(RUSAGE_SELF, &usage));
}
