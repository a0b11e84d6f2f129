// AES-256-XTS by VAES and VPCLMULQDQ: sixteen blocks at a time, two in each YMM register.
//
// As in xts_aesni.S, except that a register of whitenings holds two neighbours, T(2j) and T(2j+1), and goes on by x^16.

// to = from * x^n in each 128-bit lane, for n up to 56, as in bulkhead_times_x; `size` is that of an operand, xmmword or ymmword.
// `to` may be `from`; `high` and `low` are scratch.
.macro bulkhead_vtimes_x size, to, from, n, high, low
    vpsrlq \low, \from, 64-\n
    vpclmulqdq \high, \low, \size ptr [rip + {XTS_POLYNOMIAL}], 0x01
    vpslldq \low, \low, 8
    vpsllq \to, \from, \n
    vpxor \to, \to, \high
    vpxor \to, \to, \low
.endm

// Each of the sixteen blocks += its whitening.
.macro bulkhead_vwhiten_16
    vpxor ymm0, ymm0, ymm8
    vpxor ymm1, ymm1, ymm9
    vpxor ymm2, ymm2, ymm10
    vpxor ymm3, ymm3, ymm11
    vpxor ymm4, ymm4, ymm12
    vpxor ymm5, ymm5, ymm13
    vpxor ymm6, ymm6, ymm14
    vpxor ymm7, ymm7, ymm15
.endm

// One instruction, of each of the sixteen blocks with the round key at `at`.
.macro bulkhead_vround_16 instruction, at
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7
    \instruction ymm\i, ymm\i, ymmword ptr [rsi + 32*\at]
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
// Uses YMM0 to YMM15, and so writes all of ZMM0 to ZMM15. EAX is the form they are kept in, R10 and R11 go through the blocks, RSI
// points to the round keys of the direction.
.macro bulkhead_xts_vaes name, keys, round, last
.p2align 4
.globl \name
\name:
    mov r10, rdx
    mov r11, rcx
    bulkhead_keep_wide 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vmovdqu xmm8, xmmword ptr [rsi]
    lea rsi, [rdi + \keys]
    vpxor xmm8, xmm8, xmmword ptr [rdi + {TWEAK}]
    .irp i, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13
    vaesenc xmm8, xmm8, xmmword ptr [rdi + {TWEAK} + 32*\i]
    .endr
    vaesenclast xmm8, xmm8, xmmword ptr [rdi + {TWEAK} + 32*14]
    sub r8, 16
    jb 4f
    bulkhead_vtimes_x xmmword, xmm2, xmm8, 1, xmm0, xmm1
    vinserti128 ymm8, ymm8, xmm2, 1
    bulkhead_vtimes_x ymmword, ymm9, ymm8, 2, ymm0, ymm1
    bulkhead_vtimes_x ymmword, ymm10, ymm8, 4, ymm0, ymm1
    bulkhead_vtimes_x ymmword, ymm11, ymm8, 6, ymm0, ymm1
    bulkhead_vtimes_x ymmword, ymm12, ymm8, 8, ymm0, ymm1
    bulkhead_vtimes_x ymmword, ymm13, ymm8, 10, ymm0, ymm1
    bulkhead_vtimes_x ymmword, ymm14, ymm8, 12, ymm0, ymm1
    bulkhead_vtimes_x ymmword, ymm15, ymm8, 14, ymm0, ymm1
    .p2align 4
3:
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7
    vmovdqu ymm\i, ymmword ptr [r10 + 32*\i]
    .endr
    bulkhead_vwhiten_16
    bulkhead_vround_16 vpxor, 0
    .irp i, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13
    bulkhead_vround_16 \round, \i
    .endr
    bulkhead_vround_16 \last, 14
    bulkhead_vwhiten_16
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7
    vmovdqu ymmword ptr [r11 + 32*\i], ymm\i
    .endr
    .irp i, 8, 9, 10, 11, 12, 13, 14, 15
    bulkhead_vtimes_x ymmword, ymm\i, ymm\i, 16, ymm0, ymm1
    .endr
    add r10, 256
    add r11, 256
    sub r8, 16
    jae 3b
4:
    add r8, 16
    jz 6f
5:
    vpxor xmm0, xmm8, xmmword ptr [r10]
    vpxor xmm0, xmm0, xmmword ptr [rsi]
    .irp i, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13
    \round xmm0, xmm0, xmmword ptr [rsi + 32*\i]
    .endr
    \last xmm0, xmm0, xmmword ptr [rsi + 32*14]
    vpxor xmm0, xmm0, xmm8
    vmovdqu xmmword ptr [r11], xmm0
    bulkhead_vtimes_x xmmword, xmm8, xmm8, 1, xmm0, xmm1
    add r10, 16
    add r11, 16
    dec r8
    jnz 5b
6:
    bulkhead_return_wide 15, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14
    ret
.endm

bulkhead_xts_vaes bulkhead_crypto_xts_encrypt_vaes, {ENCRYPT}, vaesenc, vaesenclast
bulkhead_xts_vaes bulkhead_crypto_xts_decrypt_vaes, {DECRYPT}, vaesdec, vaesdeclast
