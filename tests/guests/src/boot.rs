//! From either entry to `guest_main`: the PVH note, the mode switch, GDT, page tables, stack.
//!
//! | entry | mode | register |
//! |---|---|---|
//! | `pvh_start` | 32-bit protected, paging off | EBX = start information |
//! | `flat_start`, first byte of the image | 64-bit | RDI = start information |
//!
//! Both end in `start64` with RDI = start information, on this image's own tables: the first 4 GiB are identity-mapped, and
//! `window_table` maps single pages at `window::BASE`. Selectors: 0x08 64-bit code, 0x10 data, 0x18 32-bit code,
//! 0x20 16-bit code at 0x70000, 0x28 16-bit data, 0x30 a TSS (its upper half is 0x38), 0x40 and 0x48 user code and data.
//! User mode may use the identity-mapped part.
#![allow(unsafe_code, reason = "entry code in assembly")]

use core::arch::global_asm;

global_asm!(
    r#"
    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18
    .asciz "Xen"
    .long pvh_start

    .section .flat_entry, "ax", @progbits
    .code64
    .globl flat_start
flat_start:
    movq $boot_stack_top, %rsp
    lgdt gdt_pointer
    movq $page_tables, %rax
    movq %rax, %cr3
    pushq $0x08
    pushq $start64
    lretq

    .section .boot, "ax", @progbits
    .code32
    .globl pvh_start
pvh_start:
    cld
    lgdt gdt_pointer
    movl $0x20, %eax
    movl %eax, %cr4
    movl $page_tables, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax
    movl %eax, %cr0
    movl %ebx, %edi
    ljmp $0x08, $start64

    .code64
start64:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs
    movq $boot_stack_top, %rsp
    xorl %ebp, %ebp
    call guest_main
    ud2

    .section .data.gdt, "aw", @progbits
    .balign 16
    .globl gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cf9b000000ffff
    .quad 0x00009b070000ffff
    .quad 0x000093000000ffff
    .globl gdt_tss
gdt_tss:
    .quad 0
    .quad 0
    .quad 0x00affb000000ffff
    .quad 0x00cff3000000ffff
gdt_end:
    .globl gdt_pointer
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt

    .section .page_tables, "aw", @progbits
    .balign 4096
    .globl page_tables
page_tables:
    .quad identity_pdpt + 7
    .quad window_pdpt + 3
    .fill 510, 8, 0
identity_pdpt:
    .quad identity_pd + 0x0007
    .quad identity_pd + 0x1007
    .quad identity_pd + 0x2007
    .quad identity_pd + 0x3007
    .fill 508, 8, 0
identity_pd:
    .set page, 0
    .rept 2048
    .quad page + 0x87
    .set page, page + 0x200000
    .endr
window_pdpt:
    .quad window_pd + 3
    .fill 511, 8, 0
window_pd:
    .quad window_table + 3
    .fill 511, 8, 0
    .globl window_table
window_table:
    .fill 512, 8, 0

    .section .bss.boot_stack, "aw", @nobits
    .balign 16
    .skip 65536
    .globl boot_stack_top
boot_stack_top:
    "#,
    options(att_syntax)
);
