// The key schedule of AES-256, by AES-NI.
//
// FIPS 197, "Key Expansion" and "Equivalent Inverse Cipher". Each round key is stored twice in a row, so that the routines for YMM
// registers can load a pair of equal ones as one operand.

// The next even round key, `at`: XMM0 is the one two before it, XMM1 the one before. XMM2 and XMM3 are scratch.
.macro bulkhead_even_key at, constant
    aeskeygenassist xmm2, xmm1, \constant
    pshufd xmm2, xmm2, 0xff
    bulkhead_fold_key xmm0
    bulkhead_store_key \at, xmm0
.endm

// The next odd round key, likewise: XMM1 is the one two before it, XMM0 the one before.
.macro bulkhead_odd_key at
    aeskeygenassist xmm2, xmm0, 0
    pshufd xmm2, xmm2, 0xaa
    bulkhead_fold_key xmm1
    bulkhead_store_key \at, xmm1
.endm

// Each of the four words becomes the sum of itself and those before it, and of XMM2.
.macro bulkhead_fold_key key
    movdqa xmm3, \key
    pslldq xmm3, 4
    pxor \key, xmm3
    pslldq xmm3, 4
    pxor \key, xmm3
    pslldq xmm3, 4
    pxor \key, xmm3
    pxor \key, xmm2
.endm

.macro bulkhead_store_key at, key
    movdqa xmmword ptr [rsi + 32*\at], \key
    movdqa xmmword ptr [rsi + 32*\at + 16], \key
.endm

// Expands a key for encryption.
//
// | register | on entry |
// |---|---|
// | RDI | the key, 32 bytes |
// | RSI | where the round keys go, 480 bytes on a 16-byte boundary |
// | RDX | save area |
//
// Uses XMM0 to XMM3.
.p2align 4
.globl bulkhead_crypto_aes256_expand
bulkhead_crypto_aes256_expand:
    mov r9, rdx
    bulkhead_keep_xmm 0, 1, 2, 3
    movdqu xmm0, xmmword ptr [rdi]
    movdqu xmm1, xmmword ptr [rdi + 16]
    bulkhead_store_key 0, xmm0
    bulkhead_store_key 1, xmm1
    bulkhead_even_key 2, 0x01
    bulkhead_odd_key 3
    bulkhead_even_key 4, 0x02
    bulkhead_odd_key 5
    bulkhead_even_key 6, 0x04
    bulkhead_odd_key 7
    bulkhead_even_key 8, 0x08
    bulkhead_odd_key 9
    bulkhead_even_key 10, 0x10
    bulkhead_odd_key 11
    bulkhead_even_key 12, 0x20
    bulkhead_odd_key 13
    bulkhead_even_key 14, 0x40
    bulkhead_return_xmm 3, 0, 1, 2
    ret

// Turns round keys for encryption into those for decryption: the other way round, and all but the outer two
// through InvMixColumns, as AESDEC wants them.
//
// | register | on entry |
// |---|---|
// | RDI | round keys for encryption, 480 bytes on a 16-byte boundary |
// | RSI | where those for decryption go, 480 bytes on a 16-byte boundary |
// | RDX | save area |
//
// Uses XMM0, and XMM1 for returning it.
.p2align 4
.globl bulkhead_crypto_aes256_invert
bulkhead_crypto_aes256_invert:
    mov r9, rdx
    bulkhead_keep_xmm 0, 1
    movdqa xmm0, xmmword ptr [rdi + 32*14]
    bulkhead_store_key 0, xmm0
    .irp i, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13
    aesimc xmm0, xmmword ptr [rdi + 32*(14-\i)]
    bulkhead_store_key \i, xmm0
    .endr
    movdqa xmm0, xmmword ptr [rdi]
    bulkhead_store_key 14, xmm0
    bulkhead_return_xmm 1, 0
    ret
