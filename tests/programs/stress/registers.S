# Loads all general registers from the array that rdi points to, does one thing, and stores them there: rax rbx rcx rdx rsi rdi rbp r8 ... r15.
# The array's address is kept on the stack meanwhile.

        .macro  over name, thing:vararg
        .globl  \name
        .type   \name, @function
\name:
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        push    %rdi
        mov     (%rdi), %rax
        mov     8(%rdi), %rbx
        mov     16(%rdi), %rcx
        mov     24(%rdi), %rdx
        mov     32(%rdi), %rsi
        mov     48(%rdi), %rbp
        mov     56(%rdi), %r8
        mov     64(%rdi), %r9
        mov     72(%rdi), %r10
        mov     80(%rdi), %r11
        mov     88(%rdi), %r12
        mov     96(%rdi), %r13
        mov     104(%rdi), %r14
        mov     112(%rdi), %r15
        mov     40(%rdi), %rdi
        \thing
        # rdi's value goes on the stack, where the array's address was.
        xchg    %rdi, (%rsp)
        mov     %rax, (%rdi)
        mov     %rbx, 8(%rdi)
        mov     %rcx, 16(%rdi)
        mov     %rdx, 24(%rdi)
        mov     %rsi, 32(%rdi)
        mov     %rbp, 48(%rdi)
        mov     %r8, 56(%rdi)
        mov     %r9, 64(%rdi)
        mov     %r10, 72(%rdi)
        mov     %r11, 80(%rdi)
        mov     %r12, 88(%rdi)
        mov     %r13, 96(%rdi)
        mov     %r14, 104(%rdi)
        mov     %r15, 112(%rdi)
        pop     %rax
        mov     %rax, 40(%rdi)
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret
        .size   \name, . - \name
        .endm

        .macro  loop_until_flag
1:      cmpl    $0, registers_flag(%rip)
        je      1b
        .endm

        over    over_syscall, syscall
        over    over_int80, int $0x80
        over    over_touch, movb $7, (%rdi)
        over    over_loop, loop_until_flag

        .section .note.GNU-stack, "", @progbits
