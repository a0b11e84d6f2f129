# Instructions between a POPF that sets the trap flag and one that clears it. The instruction after the first POPF traps first, the second POPF last:
# with the PUSHF, ANDQ and POPF at the end, and the MOV before them, those are four more than what is between.

        .macro  steps name, thing:vararg
        .globl  \name
        .type   \name, @function
\name:
        pushfq
        orq     $0x100, (%rsp)
        popfq
        \thing
        mov     %rax, %rdx
        pushfq
        andq    $~0x100, (%rsp)
        popfq
        mov     %rdx, %rax
        ret
        .size   \name, . - \name
        .endm

        .macro  nops
        .rept   8
        nop
        .endr
        .endm

        .macro  call_kernel
        mov     $39, %eax
        syscall
        nop
        .endm

        .macro  call_kernel_int80
        mov     $20, %eax
        int     $0x80
        nop
        .endm

        .macro  breakpoint
        nop
        int3
        nop
        nop
        .endm

        steps   step_nops, nops
        steps   step_syscall, call_kernel
        steps   step_int80, call_kernel_int80
        steps   step_int3, breakpoint

        .section .note.GNU-stack, "", @progbits
