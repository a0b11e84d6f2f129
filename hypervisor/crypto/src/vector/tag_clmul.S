// A page's tag by PCLMULQDQ and AES-NI: POLYVAL of the ciphertext and two blocks more, encrypted.
//
// RFC 8452, "POLYVAL". Eight blocks are multiplied by the eighth to the first power of the hash key, added up, and reduced once.

// XMM1 (low), XMM2 (high) and XMM3 (middle) += XMM4 * the power of the hash key at `at`. Scratch: XMM4 to XMM7.
.macro bulkhead_accumulate at
    movdqa xmm5, xmm4
    movdqa xmm6, xmm4
    movdqa xmm7, xmm4
    pclmulqdq xmm5, xmmword ptr [rdi + {POWERS} + 16*\at], 0x00
    pclmulqdq xmm6, xmmword ptr [rdi + {POWERS} + 16*\at], 0x11
    pclmulqdq xmm7, xmmword ptr [rdi + {POWERS} + 16*\at], 0x01
    pclmulqdq xmm4, xmmword ptr [rdi + {POWERS} + 16*\at], 0x10
    pxor xmm1, xmm5
    pxor xmm2, xmm6
    pxor xmm3, xmm7
    pxor xmm3, xmm4
.endm

// XMM1, XMM2, XMM3 = 0.
.macro bulkhead_nothing_yet
    pxor xmm1, xmm1
    pxor xmm2, xmm2
    pxor xmm3, xmm3
.endm

// XMM0 = what XMM1, XMM2 and XMM3 add up to, divided by x^128 modulo x^128 + x^127 + x^126 + x^121 + 1. Each of the two steps
// makes the lowest 64 bits zero by adding a multiple of the polynomial, and drops them. Scratch: XMM5.
.macro bulkhead_reduce
    movdqa xmm5, xmm3
    pslldq xmm5, 8
    psrldq xmm3, 8
    pxor xmm1, xmm5
    pxor xmm2, xmm3
    .rept 2
    movdqa xmm5, xmm1
    pclmulqdq xmm5, xmmword ptr [rip + {POLYVAL_POLYNOMIAL}], 0x00
    pshufd xmm1, xmm1, 0x4e
    pxor xmm1, xmm5
    .endr
    movdqa xmm0, xmm2
    pxor xmm0, xmm1
.endm

// | register | on entry |
// |---|---|
// | RDI | the hash key's powers, and round keys for encryption |
// | RSI | the ciphertext |
// | RDX | how many times eight blocks that is |
// | RCX | the two blocks that follow it |
// | R8 | where the tag goes, 16 bytes |
// | R9 | save area |
//
// Uses XMM0 to XMM7. XMM0 is the hash so far.
.p2align 4
.globl bulkhead_crypto_tag_clmul
bulkhead_crypto_tag_clmul:
    bulkhead_keep_xmm 0, 1, 2, 3, 4, 5, 6, 7
    pxor xmm0, xmm0
    test rdx, rdx
    jz 4f
    .p2align 4
3:
    bulkhead_nothing_yet
    movdqu xmm4, xmmword ptr [rsi]
    pxor xmm4, xmm0
    bulkhead_accumulate 0
    .irp i, 1, 2, 3, 4, 5, 6, 7
    movdqu xmm4, xmmword ptr [rsi + 16*\i]
    bulkhead_accumulate \i
    .endr
    bulkhead_reduce
    add rsi, 128
    dec rdx
    jnz 3b
4:
    bulkhead_nothing_yet
    movdqu xmm4, xmmword ptr [rcx]
    pxor xmm4, xmm0
    bulkhead_accumulate 6
    movdqu xmm4, xmmword ptr [rcx + 16]
    bulkhead_accumulate 7
    bulkhead_reduce
    pxor xmm0, xmmword ptr [rdi + {CIPHER}]
    .irp i, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13
    aesenc xmm0, xmmword ptr [rdi + {CIPHER} + 32*\i]
    .endr
    aesenclast xmm0, xmmword ptr [rdi + {CIPHER} + 32*14]
    movdqu xmmword ptr [r8], xmm0
    bulkhead_return_xmm 7, 0, 1, 2, 3, 4, 5, 6
    ret
