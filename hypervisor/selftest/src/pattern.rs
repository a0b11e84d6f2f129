//! Bytes that a seed determines, put into memory, and looked for where a device should have brought them.
//!
//! [`Pattern`] generates them, [`Arrival`] looks for them, [`Difference`] says where memory holds others. [`Crc32`] sums
//! up what arrived; it is written out here because the published crates bring tables larger than all of this one.

use core::fmt;

use crate::DmaMemory;

/// Bytes moved between memory and the stack at a time.
const PIECE: usize = 64;

/// An endless sequence of bytes, another for each seed and index: the generator SplitMix64.
#[derive(Clone)]
pub(crate) struct Pattern(u64);

impl Pattern {
    pub(crate) fn new(seed: u64, index: u64) -> Self {
        // Mixed before it becomes a state, because a state one step on would give the same words one place earlier.
        Self(seed ^ Self(index).word())
    }

    /// The next eight bytes.
    pub(crate) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    /// Fills a piece; only the last of a run may end within a word.
    fn fill(&mut self, piece: &mut [u8]) {
        for eight in piece.chunks_mut(8) {
            for (byte, value) in eight.iter_mut().zip(self.word().to_le_bytes()) {
                *byte = value;
            }
        }
    }

    /// Puts the next `bytes` bytes at `at`.
    pub(crate) fn store(mut self, memory: &mut dyn DmaMemory, at: u64, bytes: u32) {
        let mut buffer = [0; PIECE];
        for (offset, length) in pieces(bytes) {
            let piece = buffer.get_mut(..length).unwrap_or_default();
            self.fill(piece);
            memory.write(at + u64::from(offset), piece);
        }
    }
}

/// Puts zeros where a device is about to write, so that what lies there from an earlier run is not taken for its work.
pub(crate) fn clear(memory: &mut dyn DmaMemory, at: u64, bytes: u32) {
    for (offset, length) in pieces(bytes) {
        let zeros = [0; PIECE];
        memory.write(
            at + u64::from(offset),
            zeros.get(..length).unwrap_or_default(),
        );
    }
}

/// Offset and length of each piece of `bytes` bytes.
fn pieces(bytes: u32) -> impl Iterator<Item = (u32, usize)> {
    (0..bytes)
        .step_by(PIECE)
        .map(move |offset| (offset, PIECE.min((bytes - offset) as usize)))
}

/// What a device brought to `start`, compared and summed up.
pub(crate) struct Arrival<'a> {
    pub(crate) memory: &'a mut dyn DmaMemory,
    pub(crate) start: u64,
    pub(crate) sum: &'a mut Crc32,
}

impl Arrival<'_> {
    /// Expects `expected`, at most [`PIECE`] bytes, at `offset`.
    pub(crate) fn expect(&mut self, offset: u32, expected: &[u8]) -> Result<(), Difference> {
        let mut buffer = [0; PIECE];
        let found = buffer.get_mut(..expected.len()).unwrap_or_default();
        self.memory.read(self.start + u64::from(offset), found);
        self.sum.add(found);
        let differs = expected.iter().zip(&*found).zip(offset..);
        match differs
            .into_iter()
            .find(|((expected, found), _)| expected != found)
        {
            None => Ok(()),
            Some(((&expected, &found), offset)) => Err(Difference {
                offset,
                expected,
                found,
            }),
        }
    }

    /// Expects the next `bytes` bytes of `pattern` at `offset`.
    pub(crate) fn expect_pattern(
        &mut self,
        offset: u32,
        mut pattern: Pattern,
        bytes: u32,
    ) -> Result<(), Difference> {
        let mut buffer = [0; PIECE];
        for (within, length) in pieces(bytes) {
            let piece = buffer.get_mut(..length).unwrap_or_default();
            pattern.fill(piece);
            self.expect(offset + within, piece)?;
        }
        Ok(())
    }
}

/// The first byte that is not what it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Where it is, from the start of the frame or block.
    pub offset: u32,
    /// What was sent.
    pub expected: u8,
    /// What memory holds.
    pub found: u8,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            offset,
            expected,
            found,
        } = self;
        write!(f, "byte {offset} is {found} instead of {expected}")
    }
}

impl core::error::Error for Difference {}

/// The checksum of Ethernet and zlib (IEEE 802.3), over everything that arrived.
pub(crate) struct Crc32(u32);

impl Crc32 {
    pub(crate) const fn new() -> Self {
        Self(!0)
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 ^= u32::from(*byte);
            for _ in 0..8 {
                self.0 = self.0 >> 1 ^ (0xedb8_8320 & (self.0 & 1).wrapping_neg());
            }
        }
    }

    pub(crate) fn value(&self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Ram;
    use proptest::prelude::*;

    #[test]
    fn the_checksum_is_the_one_of_ethernet() {
        let mut sum = Crc32::new();
        sum.add(b"12345");
        sum.add(b"6789");
        assert_eq!(sum.value(), 0xcbf4_3926);
    }

    #[test]
    fn neighbouring_indices_share_no_words() {
        let words = |index| {
            let mut pattern = Pattern::new(7, index);
            [(); 64].map(|()| pattern.word())
        };
        let (first, second) = (words(0), words(1));
        assert!(first.iter().all(|word| !second.contains(word)));
    }

    #[test]
    fn cleared_memory_is_zero_and_its_neighbours_are_kept() {
        let mut ram = Ram::new(0x1000, 512);
        ram.write(0x1000, &[0xff; 512]);
        clear(&mut ram, 0x1001, 130);
        let mut all = [0; 512];
        ram.read(0x1000, &mut all);
        assert!(all[1..131].iter().all(|byte| *byte == 0));
        assert!(all[0] == 0xff && all[131..].iter().all(|byte| *byte == 0xff));
    }

    proptest! {
        #[test]
        fn what_was_stored_is_found_and_the_first_wrong_byte_is_named(
            seed: u64,
            bytes in 1_u32..2000,
            wrong: prop::sample::Index,
            flip in 1_u8..,
        ) {
            let mut ram = Ram::new(0x4_0000_0000, 2048);
            let at = 0x4_0000_0010;
            Pattern::new(seed, 3).store(&mut ram, at, bytes);
            let look = |ram: &mut Ram| {
                let mut sum = Crc32::new();
                let mut arrival = Arrival { memory: ram, start: at - 16, sum: &mut sum };
                arrival.expect_pattern(16, Pattern::new(seed, 3), bytes)
            };
            prop_assert_eq!(look(&mut ram), Ok(()));
            let wrong = wrong.index(bytes as usize) as u32;
            let mut byte = [0];
            ram.read(at + u64::from(wrong), &mut byte);
            ram.write(at + u64::from(wrong), &[byte[0] ^ flip]);
            let difference = Difference { offset: 16 + wrong, expected: byte[0], found: byte[0] ^ flip };
            prop_assert_eq!(look(&mut ram), Err(difference));
        }
    }
}
