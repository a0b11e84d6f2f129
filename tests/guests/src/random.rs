//! A small deterministic generator: the same run after run, so that a failure can be repeated.

/// A seed for those who need no particular one.
pub const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Xorshift64 (Marsaglia, "Xorshift RNGs").
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence that `seed`, which must not be 0, begins.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// The next number, from which the generator's state is not to be seen (Xorshift64*).
    pub const fn next_hidden(&mut self) -> u64 {
        self.next().wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
