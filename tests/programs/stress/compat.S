# Into the 32-bit code segment and back, with a data segment, which 64-bit code does not have. The stack is one below 4 GiB meanwhile; Linux keeps the registers that 32-bit code does not have.
#
#   compat_call   edi number, esi argument; eax result
#   compat_fault  edi address to read; eax 1

        .macro  leave
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        mov     %rsp, saved(%rip)
        lea     stack_end(%rip), %rsp
        pushq   $0x23
        lea     1f(%rip), %rax
        push    %rax
        lretq
        .code32
1:      mov     $0x2b, %eax
        mov     %eax, %ds
        .endm

        .macro  return
        ljmp    $0x33, $2f
        .code64
2:      mov     saved(%rip), %rsp
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret
        .endm

        .globl  compat_call
        .type   compat_call, @function
compat_call:
        leave
        mov     %edi, %eax
        mov     %esi, %ebx
        int     $0x80
        return
        .size   compat_call, . - compat_call

        .globl  compat_fault, compat_resume
        .type   compat_fault, @function
compat_fault:
        leave
        mov     (%edi), %eax
compat_resume:
        mov     $1, %eax
        return
        .size   compat_fault, . - compat_fault

        .lcomm  saved, 8
        .bss
        .balign 16
        .skip   65536
stack_end:
        .section .note.GNU-stack, "", @progbits
