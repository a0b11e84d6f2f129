// A page's tag by VPCLMULQDQ: as in tag_clmul.S, but two blocks in each YMM register.
//
// The lower lane hashes the even blocks and the upper lane the odd ones, each on its own: a lane's next block comes two later, so what
// it has so far is multiplied by the square of the hash key. Only the last two blocks make one hash of both: their
// lanes are multiplied by the square and by the key itself, and added up.

// YMM1 (low), YMM2 (high) and YMM3 (middle) += YMM4 * `power` in each lane. Scratch: YMM4 to YMM7.
.macro bulkhead_vaccumulate power
    vpclmulqdq ymm5, ymm4, \power, 0x00
    vpclmulqdq ymm6, ymm4, \power, 0x11
    vpclmulqdq ymm7, ymm4, \power, 0x01
    vpclmulqdq ymm4, ymm4, \power, 0x10
    vpxor ymm1, ymm1, ymm5
    vpxor ymm2, ymm2, ymm6
    vpxor ymm3, ymm3, ymm7
    vpxor ymm3, ymm3, ymm4
.endm

// YMM1, YMM2, YMM3 = 0.
.macro bulkhead_vnothing_yet
    vpxor xmm1, xmm1, xmm1
    vpxor xmm2, xmm2, xmm2
    vpxor xmm3, xmm3, xmm3
.endm

// YMM0 = in each lane what bulkhead_reduce makes of YMM1, YMM2 and YMM3. Scratch: YMM5.
.macro bulkhead_vreduce
    vpslldq ymm5, ymm3, 8
    vpsrldq ymm3, ymm3, 8
    vpxor ymm1, ymm1, ymm5
    vpxor ymm2, ymm2, ymm3
    .rept 2
    vpclmulqdq ymm5, ymm1, ymmword ptr [rip + {POLYVAL_POLYNOMIAL}], 0x00
    vpshufd ymm1, ymm1, 0x4e
    vpxor ymm1, ymm1, ymm5
    .endr
    vpxor ymm0, ymm1, ymm2
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
// Uses YMM0 to YMM11, and so writes all of ZMM0 to ZMM11. YMM0 is the hash so far, YMM8 to YMM11 are even powers of the hash key.
// EAX is the form the registers are kept in, R10 and R11 are what RDX and RCX were.
.p2align 4
.globl bulkhead_crypto_tag_vpclmul
bulkhead_crypto_tag_vpclmul:
    mov r10, rdx
    mov r11, rcx
    bulkhead_keep_wide 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
    vbroadcasti128 ymm8, xmmword ptr [rdi + {POWERS}]
    vbroadcasti128 ymm9, xmmword ptr [rdi + {POWERS} + 16*2]
    vbroadcasti128 ymm10, xmmword ptr [rdi + {POWERS} + 16*4]
    vbroadcasti128 ymm11, xmmword ptr [rdi + {POWERS} + 16*6]
    vpxor xmm0, xmm0, xmm0
    test r10, r10
    jz 4f
    .p2align 4
3:
    bulkhead_vnothing_yet
    vpxor ymm4, ymm0, ymmword ptr [rsi]
    bulkhead_vaccumulate ymm8
    vmovdqu ymm4, ymmword ptr [rsi + 32]
    bulkhead_vaccumulate ymm9
    vmovdqu ymm4, ymmword ptr [rsi + 64]
    bulkhead_vaccumulate ymm10
    vmovdqu ymm4, ymmword ptr [rsi + 96]
    bulkhead_vaccumulate ymm11
    bulkhead_vreduce
    add rsi, 128
    dec r10
    jnz 3b
4:
    bulkhead_vnothing_yet
    vpxor ymm4, ymm0, ymmword ptr [r11]
    vmovdqu ymm8, ymmword ptr [rdi + {POWERS} + 16*6]
    bulkhead_vaccumulate ymm8
    bulkhead_vreduce
    vextracti128 xmm1, ymm0, 1
    vpxor xmm0, xmm0, xmm1
    vpxor xmm0, xmm0, xmmword ptr [rdi + {CIPHER}]
    .irp i, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13
    vaesenc xmm0, xmm0, xmmword ptr [rdi + {CIPHER} + 32*\i]
    .endr
    vaesenclast xmm0, xmm0, xmmword ptr [rdi + {CIPHER} + 32*14]
    vmovdqu xmmword ptr [r8], xmm0
    bulkhead_return_wide 11, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
    ret
