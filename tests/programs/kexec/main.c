// Starts another kernel in place of the one that runs, without going through the machine's reset.
//
//     kexec ADDRESS KERNEL INITRD
//
// ADDRESS is where in physical memory the other one is put, which unpacks itself from there. It gets this one's command line, and what this one was told of the
// machine. This is what the system call is told, and not the kernel itself (`kexec_file_load`): the kernel takes a checksum of all that the other one may ever use,
// twice, which on an emulator takes longer than booting it.

#define _GNU_SOURCE
#include <asm/bootparam.h>
#include <fcntl.h>
#include <linux/kexec.h>
#include <linux/reboot.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096, MIB = 1 << 20, MOST = 64 * MIB, HERE = 0x10000 };

// What the other kernel finds at HERE.
struct low {
    struct boot_params params;
    char line[PAGE];
    uint8_t stub[PAGE];
};
_Static_assert(offsetof(struct low, line) == PAGE && sizeof(struct low) == 3 * PAGE, "whole pages");

// Goes to the kernel's 64-bit entry, with RSI as "The Linux/x86 Boot Protocol" wants it.
//     mov rsi, PARAMETERS; mov rax, ENTRY; jmp rax
static void write_stub(uint8_t *at, uint64_t parameters, uint64_t entry)
{
    static const uint8_t code[] = {0x48, 0xbe, 0, 0, 0, 0, 0, 0, 0, 0, 0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xe0};
    memcpy(at, code, sizeof(code));
    memcpy(at + 2, &parameters, 8);
    memcpy(at + 12, &entry, 8);
}

static _Noreturn void give_up(const char *what)
{
    perror(what);
    exit(1);
}

// What is in a file, of which the size need not be known.
static char *contents(const char *path, size_t *size)
{
    char *bytes = malloc(MOST);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || bytes == NULL)
        give_up(path);
    size_t length = 0;
    ssize_t more;
    while (length < MOST && (more = read(file, bytes + length, MOST - length)) != 0) {
        if (more < 0)
            give_up(path);
        length += more;
    }
    close(file);
    *size = length;
    return bytes;
}

static size_t pages(size_t size)
{
    return (size + PAGE - 1) / PAGE * PAGE;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: kexec ADDRESS KERNEL INITRD\n");
        return 2;
    }
    uint64_t address = strtoull(argv[1], NULL, 0);
    size_t kernel_size, initrd_size, params_size, line_size;
    char *kernel = contents(argv[2], &kernel_size);
    char *initrd = contents(argv[3], &initrd_size);
    char *params = contents("/sys/kernel/boot_params/data", &params_size);
    char *line = contents("/proc/cmdline", &line_size);

    const struct setup_header *header = (const void *)(kernel + offsetof(struct boot_params, hdr));
    size_t setup = (header->setup_sects + 1) * 512;
    if (kernel_size < setup + PAGE || memcmp(&header->header, "HdrS", 4) != 0 || !(header->xloadflags & XLF_KERNEL_64)
        || address % header->kernel_alignment != 0 || params_size != PAGE || line_size == 0 || line_size >= PAGE) {
        fprintf(stderr, "kexec: this is no kernel for there\n");
        return 1;
    }
    uint64_t behind = (address + header->init_size + 2 * MIB - 1) / (2 * MIB) * (2 * MIB);

    struct low *low = calloc(1, sizeof(struct low));
    memcpy(&low->params, params, PAGE);
    low->params.hdr = *header;
    low->params.hdr.type_of_loader = 0xff;
    low->params.hdr.ramdisk_image = behind;
    low->params.hdr.ramdisk_size = initrd_size;
    low->params.hdr.cmd_line_ptr = HERE + offsetof(struct low, line);
    // The last byte is a line feed.
    memcpy(low->line, line, line_size - 1);
    uint64_t stub = HERE + offsetof(struct low, stub);
    write_stub(low->stub, HERE, address + 0x200);

    struct kexec_segment segments[] = {
        {low, sizeof(*low), (void *)HERE, sizeof(*low)},
        {kernel + setup, kernel_size - setup, (void *)address, pages(header->init_size)},
        {initrd, initrd_size, (void *)behind, pages(initrd_size)},
    };
    if (syscall(SYS_kexec_load, stub, 3, segments, KEXEC_ARCH_X86_64) != 0)
        give_up("kexec_load");
    printf("kexec: to %#lx: %s\n", address, low->line);
    fflush(stdout);
    syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_KEXEC, NULL);
    give_up("reboot");
}
