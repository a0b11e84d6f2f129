# One thing each, with the address in rdi; `faults_resume` says where to go on after a signal. No registers but those that a call may change.

        .macro  action name, thing:vararg
        .globl  \name
        .type   \name, @function
\name:
        lea     1f(%rip), %rax
        mov     %rax, faults_resume(%rip)
        mov     %rsp, %rsi
        \thing
1:      mov     %rsi, %rsp
        ret
        .size   \name, . - \name
        .endm

        .macro  divide
        xor     %edx, %edx
        xor     %ecx, %ecx
        mov     $1, %eax
        div     %ecx
        .endm

        # The exception is that of the next x87 instruction.
        .macro  divide_x87
        fninit
        pushq   $0x37b
        fldcw   (%rsp)
        fld1
        fldz
        fdivrp
        fwait
        .endm

        .macro  divide_simd
        pushq   $0x1d80
        ldmxcsr (%rsp)
        pxor    %xmm0, %xmm0
        mov     $1, %eax
        cvtsi2sd %eax, %xmm1
        divsd   %xmm0, %xmm1
        .endm

        # With AC set, which the kernel has to clear when it is entered: it stands for its own right to user memory.
        .macro  unaligned
        pushfq
        orq     $0x40000, (%rsp)
        popfq
        mov     1(%rsp), %rax
        .endm

        .macro  read_stack
        mov     %rdi, %rsp
        pop     %rax
        .endm

        .macro  bad_segment
        mov     $0x10, %eax
        mov     %eax, %ds
        .endm

        action  do_read, movb (%rdi), %al
        action  do_write, movb %al, (%rdi)
        action  do_fetch, jmp *%rdi
        action  do_read_stack, read_stack
        action  do_int3, int3
        action  do_int3_long, .byte 0xcd, 3
        action  do_icebp, .byte 0xf1
        action  do_into, int $4
        action  do_int_nmi, int $2
        action  do_int_page, int $14
        action  do_int_free, int $0x60
        action  do_ud2, ud2
        action  do_divide, divide
        action  do_x87, divide_x87
        action  do_simd, divide_simd
        action  do_unaligned, unaligned
        action  do_hlt, hlt
        action  do_cli, cli
        action  do_in, inb $0x80, %al
        action  do_mov_cr3, mov %rax, %cr3
        action  do_lgdt, lgdt (%rsp)
        action  do_wrmsr, wrmsr
        action  do_bad_segment, bad_segment

        .section .note.GNU-stack, "", @progbits
