// AES-256-XTS by AES-NI and PCLMULQDQ: eight blocks at a time in XMM registers.
//
// IEEE 1619, "XTS-AES encryption procedure": block i is whitened, before the cipher and after it, by T(i) = E2(tweak) * x^i.
// Eight blocks' whitenings live in XMM8 to XMM15, and go on to the next eight blocks by a multiplication by x^8 each, so that
// they depend on each other in no chain. They are put into the save area too: so those of the next eight blocks can be
// computed between the rounds of these, where the processor would else have nothing to do but AES.

// to = from * x^n in GF(2^128), for n up to 56. What leaves a half on its left comes back on the other's right: as it is
// from the lower half, times the field's polynomial from the upper. `from` may be memory, or `to`; `high` and `low` are scratch.
.macro bulkhead_times_x to, from, n, high, low
    movdqa \high, \from
    psrlq \high, 64-\n
    movdqa \low, \high
    pclmulqdq \high, xmmword ptr [rip + {XTS_POLYNOMIAL}], 0x01
    pslldq \low, 8
    movdqa \to, \from
    psllq \to, \n
    pxor \to, \high
    pxor \to, \low
.endm

// One round of the eight blocks, and the whitening numbered `i` of the next eight, in XMM `to`. Scratch: XMM14, XMM15.
.macro bulkhead_round_and_whitening instruction, i, to
    bulkhead_round_8 \instruction, (\i+1)
    bulkhead_times_x \to, "xmmword ptr [r9 + 256 + 16*\i]", 8, xmm14, xmm15
.endm

// One instruction, of each of the eight blocks with the round key at `at`.
.macro bulkhead_round_8 instruction, at
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7
    \instruction xmm\i, xmmword ptr [r10 + 32*\at]
    .endr
.endm

// A routine in either direction.
//
// | register | on entry |
// |---|---|
// | RDI | round keys: for encryption, for decryption, for the tweak |
// | RSI | the tweak, 16 bytes |
// | RDX | the blocks to read |
// | RCX | where they go: the same place, or one that does not overlap it |
// | R8 | how many blocks |
// | R9 | save area |
//
// Uses XMM0 to XMM15, and 128 bytes of the area beside theirs. R10 points to the round keys of the direction.
.macro bulkhead_xts_aesni name, keys, round, last
.p2align 4
.globl \name
\name:
    bulkhead_keep_xmm 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    lea r10, [rdi + \keys]
    movdqu xmm8, xmmword ptr [rsi]
    pxor xmm8, xmmword ptr [rdi + {TWEAK}]
    .irp i, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13
    aesenc xmm8, xmmword ptr [rdi + {TWEAK} + 32*\i]
    .endr
    aesenclast xmm8, xmmword ptr [rdi + {TWEAK} + 32*14]
    sub r8, 8
    jb 4f
    bulkhead_times_x xmm9, xmm8, 1, xmm0, xmm1
    bulkhead_times_x xmm10, xmm8, 2, xmm2, xmm3
    bulkhead_times_x xmm11, xmm8, 3, xmm4, xmm5
    bulkhead_times_x xmm12, xmm8, 4, xmm6, xmm7
    bulkhead_times_x xmm13, xmm8, 5, xmm0, xmm1
    bulkhead_times_x xmm14, xmm8, 6, xmm2, xmm3
    bulkhead_times_x xmm15, xmm8, 7, xmm4, xmm5
    .p2align 4
3:
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7
    movdqu xmm\i, xmmword ptr [rdx + 16*\i]
    .endr
    movdqa xmmword ptr [r9 + 256], xmm8
    movdqa xmmword ptr [r9 + 272], xmm9
    movdqa xmmword ptr [r9 + 288], xmm10
    movdqa xmmword ptr [r9 + 304], xmm11
    movdqa xmmword ptr [r9 + 320], xmm12
    movdqa xmmword ptr [r9 + 336], xmm13
    movdqa xmmword ptr [r9 + 352], xmm14
    movdqa xmmword ptr [r9 + 368], xmm15
    pxor xmm0, xmm8
    pxor xmm1, xmm9
    pxor xmm2, xmm10
    pxor xmm3, xmm11
    pxor xmm4, xmm12
    pxor xmm5, xmm13
    pxor xmm6, xmm14
    pxor xmm7, xmm15
    bulkhead_round_8 pxor, 0
    bulkhead_round_and_whitening \round, 0, xmm8
    bulkhead_round_and_whitening \round, 1, xmm9
    bulkhead_round_and_whitening \round, 2, xmm10
    bulkhead_round_and_whitening \round, 3, xmm11
    bulkhead_round_and_whitening \round, 4, xmm12
    bulkhead_round_and_whitening \round, 5, xmm13
    .irp i, 7, 8, 9, 10, 11, 12, 13
    bulkhead_round_8 \round, \i
    .endr
    bulkhead_round_8 \last, 14
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7
    pxor xmm\i, xmmword ptr [r9 + 256 + 16*\i]
    movdqu xmmword ptr [rcx + 16*\i], xmm\i
    .endr
    bulkhead_times_x xmm14, "xmmword ptr [r9 + 352]", 8, xmm0, xmm1
    bulkhead_times_x xmm15, "xmmword ptr [r9 + 368]", 8, xmm2, xmm3
    add rdx, 128
    add rcx, 128
    sub r8, 8
    jae 3b
4:
    add r8, 8
    jz 6f
5:
    movdqu xmm0, xmmword ptr [rdx]
    pxor xmm0, xmm8
    pxor xmm0, xmmword ptr [r10]
    .irp i, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13
    \round xmm0, xmmword ptr [r10 + 32*\i]
    .endr
    \last xmm0, xmmword ptr [r10 + 32*14]
    pxor xmm0, xmm8
    movdqu xmmword ptr [rcx], xmm0
    bulkhead_times_x xmm8, xmm8, 1, xmm0, xmm1
    add rdx, 16
    add rcx, 16
    dec r8
    jnz 5b
6:
    pxor xmm0, xmm0
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7
    movdqa xmmword ptr [r9 + 256 + 16*\i], xmm0
    .endr
    bulkhead_return_xmm 15, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14
    ret
.endm

bulkhead_xts_aesni bulkhead_crypto_xts_encrypt_aesni, {ENCRYPT}, aesenc, aesenclast
bulkhead_xts_aesni bulkhead_crypto_xts_decrypt_aesni, {DECRYPT}, aesdec, aesdeclast
