//! Random bytes of the processor's (Intel SDM vol. 1, "Random Number Generator Instructions").

use super::cpu::cpuid;
use core::arch::x86_64::{_rdrand64_step, _rdseed64_step};
use core::hint::spin_loop;

/// Attempts for one word: RDSEED runs dry when many ask, and refills within microseconds.
const SEED_ATTEMPTS: u32 = 64;
/// Attempts for one word: RDRAND that fails so often in a row is broken.
const RANDOM_ATTEMPTS: u32 = 10;

/// Fills `bytes` from RDSEED, or from RDRAND where that is missing or dry; false, with all of `bytes` zero, where the
/// processor gives nothing.
#[must_use]
pub fn fill(bytes: &mut [u8]) -> bool {
    let sources = Sources::of_cpu();
    for piece in bytes.chunks_mut(8) {
        let Some(word) = sources.word() else {
            bytes.fill(0);
            return false;
        };
        for (to, from) in piece.iter_mut().zip(word.to_ne_bytes()) {
            *to = from;
        }
    }
    true
}

/// What the processor has.
#[derive(Clone, Copy)]
struct Sources {
    rdseed: bool,
    rdrand: bool,
}

impl Sources {
    fn of_cpu() -> Self {
        const RDRAND: u32 = 1 << 30;
        const RDSEED: u32 = 1 << 18;
        let has_leaf_7 = cpuid(0, 0).eax >= 7;
        Self {
            rdseed: has_leaf_7 && cpuid(7, 0).ebx & RDSEED != 0,
            rdrand: cpuid(1, 0).ecx & RDRAND != 0,
        }
    }

    fn word(self) -> Option<u64> {
        let seed = || {
            let mut word = 0;
            // SAFETY: CPUID names RDSEED.
            (unsafe { _rdseed64_step(&mut word) } == 1).then_some(word)
        };
        let random = || {
            let mut word = 0;
            // SAFETY: CPUID names RDRAND.
            (unsafe { _rdrand64_step(&mut word) } == 1).then_some(word)
        };
        let by_seed = self.rdseed.then(|| attempt(SEED_ATTEMPTS, seed)).flatten();
        by_seed.or_else(|| {
            self.rdrand
                .then(|| attempt(RANDOM_ATTEMPTS, random))
                .flatten()
        })
    }
}

fn attempt(times: u32, mut draw: impl FnMut() -> Option<u64>) -> Option<u64> {
    for _ in 0..times {
        if let Some(word) = draw() {
            return Some(word);
        }
        spin_loop();
    }
    None
}
