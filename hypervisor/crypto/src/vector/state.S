// Keeping the vector registers of whoever was interrupted: the two pairs of macros that every routine here begins and ends with.
//
// A routine names the registers it uses, keeps exactly those in the save area, and loads them again as its last act on them.
// So they end as they began, and nothing of a key or a page stays in one. Then it zeroes what it wrote to the area, because
// that may be a guest's secret, or its own. Nothing is pushed: no secret reaches the stack.
//
// Instructions with 128-bit legacy encodings leave the bits above 127 of a register alone, so XMM is all there is to keep.
// VEX encodings zero everything above what they write, so those keep whole registers: ZMM where XCR0 enables AVX-512, else YMM.
//
// In all of them R9 points to the save area, on a 64-byte boundary.

// Keeps the XMM registers with these numbers.
.macro bulkhead_keep_xmm numbers:vararg
    .irp i, \numbers
    movdqa xmmword ptr [r9 + 16*\i], xmm\i
    .endr
.endm

// Undoes bulkhead_keep_xmm for the registers with these numbers and `last`, and wipes their room.
.macro bulkhead_return_xmm last, numbers:vararg
    .irp i, \numbers
    movdqa xmm\i, xmmword ptr [r9 + 16*\i]
    .endr
    pxor xmm\last, xmm\last
    .irp i, \numbers
    movdqa xmmword ptr [r9 + 16*\i], xmm\last
    .endr
    movdqa xmm\last, xmmword ptr [r9 + 16*\last]
    mov qword ptr [r9 + 16*\last], 0
    mov qword ptr [r9 + 16*\last + 8], 0
.endm

// Keeps the registers with these numbers in the widest form that XCR0 enables. Clobbers RCX and RDX; EAX tells
// bulkhead_return_wide the form.
.macro bulkhead_keep_wide numbers:vararg
    xor ecx, ecx
    xgetbv
    and eax, {AVX512_STATE}
    cmp eax, {AVX512_STATE}
    je 20f
    .irp i, \numbers
    vmovdqa ymmword ptr [r9 + 64*\i], ymm\i
    .endr
    jmp 21f
20:
    .irp i, \numbers
    vmovdqa64 zmmword ptr [r9 + 64*\i], zmm\i
    .endr
21:
.endm

// Undoes bulkhead_keep_wide for the registers with these numbers and `last`, and wipes their room.
.macro bulkhead_return_wide last, numbers:vararg
    cmp eax, {AVX512_STATE}
    je 20f
    .irp i, \numbers
    vmovdqa ymm\i, ymmword ptr [r9 + 64*\i]
    .endr
    vpxor xmm\last, xmm\last, xmm\last
    .irp i, \numbers
    vmovdqa ymmword ptr [r9 + 64*\i], ymm\last
    .endr
    vmovdqa ymm\last, ymmword ptr [r9 + 64*\last]
    jmp 21f
20:
    .irp i, \numbers
    vmovdqa64 zmm\i, zmmword ptr [r9 + 64*\i]
    .endr
    vpxor xmm\last, xmm\last, xmm\last
    .irp i, \numbers
    vmovdqa64 zmmword ptr [r9 + 64*\i], zmm\last
    .endr
    vmovdqa64 zmm\last, zmmword ptr [r9 + 64*\last]
21:
    .irp at, 0, 8, 16, 24, 32, 40, 48, 56
    mov qword ptr [r9 + 64*\last + \at], 0
    .endr
.endm
