//! Where a routine keeps the vector registers that it uses.

/// Registers that a routine uses at most.
const REGISTERS: usize = 16;
/// Bytes of the widest one, a ZMM register.
const WIDEST: usize = 64;

/// Room for the vector registers that an operation uses, while it uses them.
///
/// The hypervisor is built without vector registers: whatever they hold when it runs is a guest's, and is in no other place.
/// An operation that uses some therefore keeps them here first. What it has no register left for lies here too, not on the stack.
///
/// # What an operation promises
///
/// - Every vector register has the same value after it as before, in all of its bits that XCR0 enables. None holds
///   anything of a key, a page or a tag. The x87 and MMX registers, the opmasks and MXCSR are not touched.
/// - The area is all zeroes after it, if it was before. A guest's registers hold what the guest last copied, which may be a part of
///   the very page that is being sealed: nothing of them may be found in memory later.
/// - It puts nothing on the stack.
///
/// # What it needs
///
/// - The area itself, exclusively: that is what `&mut` says. Interrupts may stay enabled, and a handler may call an operation on the
///   same processor, because that one has an area of its own, and ends with the registers as it found them. So does a machine check.
/// - CR0.EM = 0 and CR0.TS = 0, CR4.OSFXSR = 1; otherwise the first vector instruction is #UD or #NM.
/// - For VAES also CR4.OSXSAVE = 1 and XCR0 that enables SSE and AVX. Where a guest's XCR0 is live and has less, load the host's first.
///   AVX state that XCR0 does not enable at that moment is not promised to survive: so XCR0 enables whatever a guest may have
///   used. The routines see by XGETBV whether that includes AVX-512. They have to keep ZMM registers then, even though they use
///   only YMM, because an instruction with a VEX prefix zeroes everything above what it writes.
///
/// # What it costs
///
/// While upper parts of the registers are in use, legacy encodings merge into them. On a Zen 4, a page by AES-NI takes 1,950 ticks
/// with the upper parts clean, 2,130 with those of YMM in use and 3,540 with those of ZMM. The VAES routines leave them
/// in use even where they were not, because they load whole registers.
///
/// None of this is about memory safety: without it an operation is an exception, or a guest's registers change.
///
/// # Why not FXSAVE or XSAVE
///
/// They store the whole state, up to 2.7 KiB, where AES-NI needs 256 bytes; and what is not in use, in a form
/// that is private to the processor. Sixteen stores and loads cost less, and show what is kept.
#[repr(C, align(64))]
pub struct SaveArea([u8; REGISTERS * WIDEST]);

impl SaveArea {
    /// An area that holds nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self([0; REGISTERS * WIDEST])
    }

    /// Whether nothing is kept in it, as is so between operations.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }
}

impl Default for SaveArea {
    fn default() -> Self {
        Self::new()
    }
}
