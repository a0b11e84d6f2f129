//! The hypervisor's stacks, each with an absent page below it, registered so that a report can walk them.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use zeroize::Zeroize;

/// Most stacks there can be.
const MAX_STACKS: usize = 8 * 64;

static BOUNDS: [[AtomicU64; 2]; MAX_STACKS] =
    [const { [AtomicU64::new(0), AtomicU64::new(0)] }; MAX_STACKS];
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Overwrites what calls that have returned left in `KIB` KiB below the caller's frame.
#[inline(never)]
pub fn wipe<const KIB: usize>() {
    const WORDS: usize = 1024 / size_of::<u64>();
    let mut below = [[0_u64; WORDS]; KIB];
    below.as_flattened_mut().zeroize();
}

/// Registers the mapped part of a stack, `low..high`.
pub fn register(low: u64, high: u64) {
    let index = COUNT.fetch_add(1, Ordering::Relaxed);
    if let Some([start, end]) = BOUNDS.get(index) {
        start.store(low, Ordering::Relaxed);
        end.store(high, Ordering::Relaxed);
    }
}

/// The registered stack that `address` lies on.
#[must_use]
pub fn bounds_of(address: u64) -> Option<(u64, u64)> {
    BOUNDS
        .iter()
        .map(|[start, end]| (start.load(Ordering::Relaxed), end.load(Ordering::Relaxed)))
        .find(|(low, high)| (*low..*high).contains(&address))
}
