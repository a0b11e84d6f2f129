//! Debug exceptions: what each interrupted is written down, and the kernel looks whether its memory is there.
//!
//! Whoever has some raised calls [`record`] first. One of them can be made the end of user mode, wherever it was on the way there or back.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::entry::Nested;
use crate::world::{self, LEAK, SECRET};

/// Debug exceptions that are written down.
const MOST: usize = 256;
/// What DR6 has where it has nothing to say, and its bits for breakpoints.
const DR6_AT_RESET: u64 = 0xffff_0ff0;
pub(crate) const BREAKPOINTS: u64 = 0xf;
/// The next instruction has no breakpoint.
const RESUME: u64 = 1 << 16;
const TRAP: u64 = 1 << 8;
/// Of user mode that goes on.
const NEVER: u32 = u32::MAX;

/// What a debug exception interrupted: RIP, DR6, CS and flags.
pub(crate) type Hit = [u64; 4];

static HITS: [[AtomicU64; 4]; MOST] = [const { [const { AtomicU64::new(0) }; 4] }; MOST];
static COUNT: AtomicU32 = AtomicU32::new(NEVER);
static END: AtomicU32 = AtomicU32::new(NEVER);
/// How often the kernel did not find its memory.
static BLIND: AtomicU32 = AtomicU32::new(0);

/// Writes down those that come from now on; the one with the number `end` ends user mode.
pub(crate) fn record(end: Option<u32>) {
    END.store(end.unwrap_or(NEVER), Relaxed);
    COUNT.store(0, Relaxed);
}

/// What came, in order; no more is written down.
pub(crate) fn recorded() -> impl ExactSizeIterator<Item = Hit> + Clone {
    let count = COUNT.swap(NEVER, Relaxed) as usize;
    let hits = HITS.get(..count).unwrap_or(&HITS);
    hits.iter()
        .map(|hit| hit.each_ref().map(|word| word.load(Relaxed)))
}

/// How often the kernel did not find its own memory since it was last asked.
pub(crate) fn was_blind() -> u32 {
    BLIND.swap(0, Relaxed)
}

/// One came; whether user mode is at its end.
pub(crate) fn arrive(frame: &mut Nested) -> bool {
    let dr6 = take_dr6();
    look();
    if dr6 & BREAKPOINTS != 0 {
        frame.rflags |= RESUME;
    }
    let number = COUNT.load(Relaxed);
    if number == NEVER {
        frame.rflags &= !TRAP;
        return false;
    }
    COUNT.store(number + 1, Relaxed);
    let Some(hit) = HITS.get(number as usize) else {
        // There cannot be so many: whatever it is, it is over.
        set_breakpoints([0; 4], Breakpoints::None);
        frame.rflags &= !TRAP;
        return true;
    };
    let what = [frame.rip, dr6, frame.cs, frame.rflags];
    hit.iter()
        .zip(what)
        .for_each(|(to, from)| to.store(from, Relaxed));
    number == END.load(Relaxed)
}

/// Sees whether the kernel's memory is there.
pub(crate) fn look() {
    if world::read(LEAK) != SECRET {
        BLIND.fetch_add(1, Relaxed);
    }
}

/// What DR7 says of all four.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Breakpoints {
    /// They are off.
    None,
    /// Instructions are about to be executed.
    Execution,
    /// Eight bytes were read or written.
    Data,
}

/// Sets the four breakpoints.
pub(crate) fn set_breakpoints(at: [u64; 4], kind: Breakpoints) {
    const ON: u64 = 0xaa;
    const FIXED: u64 = 1 << 10;
    const READ_WRITE_EIGHT: u64 = 0xbbbb << 16;
    let dr7 = match kind {
        Breakpoints::None => FIXED,
        Breakpoints::Execution => FIXED | ON,
        Breakpoints::Data => FIXED | ON | READ_WRITE_EIGHT,
    };
    let [a, b, c, d] = at;
    // SAFETY: breakpoints raise debug exceptions, for which there is a handler on a stack of its own.
    unsafe {
        asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", "mov dr7, {}",
            in(reg) a, in(reg) b, in(reg) c, in(reg) d, in(reg) dr7, options(nomem, nostack, preserves_flags));
    }
}

/// What DR6 says, which then says nothing.
fn take_dr6() -> u64 {
    let dr6;
    // SAFETY: DR6 only tells of debug exceptions.
    unsafe {
        asm!("mov {}, dr6", "mov dr6, {}", out(reg) dr6, in(reg) DR6_AT_RESET, options(nomem, nostack, preserves_flags));
    }
    dr6
}
