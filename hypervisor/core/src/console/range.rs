//! [`MemoryRange`]: which bytes of a VM's memory the command `memory` is about.

use crate::addr::{FRAME_SIZE, Gpa};

/// A few bytes of one guest-physical page. No range reaches into the next page, which may be another frame in another state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryRange {
    gpa: Gpa,
    bytes: u32,
}

impl MemoryRange {
    /// The most bytes that are shown at once.
    pub const MAX_BYTES: u32 = 256;
    /// How many are shown where nobody says.
    const DEFAULT_BYTES: u32 = 64;

    /// `bytes` bytes from `gpa` on; `None` unless they are 1 to [`Self::most_at`] of them.
    #[must_use]
    pub fn new(gpa: Gpa, bytes: u32) -> Option<Self> {
        (1..=Self::most_at(gpa))
            .contains(&bytes)
            .then_some(Self { gpa, bytes })
    }

    /// As many bytes from `gpa` on as are shown where nobody says how many.
    #[must_use]
    pub fn at(gpa: Gpa) -> Self {
        let bytes = Self::most_at(gpa).min(Self::DEFAULT_BYTES);
        Self { gpa, bytes }
    }

    /// How many bytes can be shown from `gpa` on: what its page has left, and no more than [`Self::MAX_BYTES`].
    #[must_use]
    pub fn most_at(gpa: Gpa) -> u32 {
        let left = (FRAME_SIZE - gpa.page_offset()) as u32;
        left.min(Self::MAX_BYTES)
    }

    /// The first byte.
    #[must_use]
    pub const fn gpa(self) -> Gpa {
        self.gpa
    }

    /// How many bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_range_leaves_its_page() {
        let bytes = |gpa, count| MemoryRange::new(Gpa(gpa), count).map(MemoryRange::bytes);
        assert_eq!(bytes(0x1000, 256), Some(256));
        assert_eq!(bytes(0x1000, 257), None);
        assert_eq!(bytes(0x1000, 0), None);
        assert_eq!(bytes(0x1ff0, 16), Some(16));
        assert_eq!(bytes(0x1ff0, 17), None);
        assert_eq!(bytes(u64::MAX, 1), Some(1));
        assert_eq!(MemoryRange::at(Gpa(0x1ff8)).bytes(), 8);
        assert_eq!(MemoryRange::at(Gpa(0x1000)).bytes(), 64);
    }
}
