# The one way in that everything else is compared with: long kernel(long number, ...).
#
#   in      rdi number, then arguments as the C convention has them: rsi rdx rcx r8 r9, the sixth on the stack
#   kernel  rax number, rdi rsi rdx r10 r8 r9
#   out     rax

        .globl  kernel
        .type   kernel, @function
kernel:
        mov     %rdi, %rax
        mov     %rsi, %rdi
        mov     %rdx, %rsi
        mov     %rcx, %rdx
        mov     %r8, %r10
        mov     %r9, %r8
        mov     8(%rsp), %r9
        syscall
        ret
        .size   kernel, . - kernel
        .section .note.GNU-stack, "", @progbits
