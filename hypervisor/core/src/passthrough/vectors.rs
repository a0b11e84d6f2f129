//! The MSI-X table that a guest sees in place of its device's (PCI Local Bus Specification 3.0, "MSI-X Capability and
//! Table Structures").
//!
//! The device's own table is the hypervisor's: it holds messages in the form that the remapping unit takes, and its masks.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::GuestMessage;

/// Bytes of an entry.
pub const ENTRY_BYTES: u64 = 16;
/// Where in an entry the word with the mask is.
pub const CONTROL: u64 = 12;
/// The vector control's only bit: masked.
pub const MASKED: u32 = 1;

#[derive(Clone, Copy, Debug)]
struct Entry {
    words: [u32; 4],
}

impl Entry {
    const RESET: Self = Self {
        words: [0, 0, 0, MASKED],
    };

    /// What it sends, unless it is masked or no interrupt.
    fn message(&self) -> Option<GuestMessage> {
        let [low, high, data, control] = self.words;
        if control & MASKED != 0 {
            return None;
        }
        GuestMessage::new(u64::from(low) | u64::from(high) << 32, data)
    }
}

/// The table as the guest wrote it.
#[derive(Clone, Debug)]
pub struct VectorTable {
    entries: Vec<Entry>,
}

impl VectorTable {
    /// A table of `count` masked vectors.
    #[must_use]
    pub fn new(count: u16) -> Self {
        Self {
            entries: vec![Entry::RESET; count.into()],
        }
    }

    /// How many vectors there are.
    #[must_use]
    pub const fn count(&self) -> u16 {
        self.entries.len() as u16
    }

    /// As after a reset.
    pub fn restart(&mut self) {
        self.entries.fill(Entry::RESET);
    }

    /// What vector `number` sends now; `None` where it is to be held back.
    #[must_use]
    pub fn message(&self, number: u16) -> Option<GuestMessage> {
        self.entries.get(usize::from(number))?.message()
    }

    /// Reads 4 or 8 aligned bytes; anything else is undefined, and reads as zero.
    #[must_use]
    pub fn read(&self, offset: u64, size: u8) -> u64 {
        match (size, offset % 8) {
            (4, 0 | 4) => self.word(offset).into(),
            (8, 0) => u64::from(self.word(offset)) | u64::from(self.word(offset + 4)) << 32,
            _ => 0,
        }
    }

    /// Writes 4 or 8 aligned bytes, and says which vectors may have changed; anything else is undefined, and ignored.
    pub fn write(&mut self, offset: u64, size: u8, value: u64) -> Range<u16> {
        match (size, offset % 8) {
            (4, 0 | 4) => self.set_word(offset, value as u32),
            (8, 0) => {
                self.set_word(offset, value as u32);
                self.set_word(offset + 4, (value >> 32) as u32);
            }
            _ => return 0..0,
        }
        let number = u16::try_from(offset / ENTRY_BYTES).unwrap_or(u16::MAX);
        number..number.saturating_add(1).min(self.count())
    }

    fn word(&self, offset: u64) -> u32 {
        let entry = usize::try_from(offset / ENTRY_BYTES)
            .ok()
            .and_then(|number| self.entries.get(number));
        let word = entry.and_then(|entry| entry.words.get((offset % ENTRY_BYTES / 4) as usize));
        word.copied().unwrap_or(0)
    }

    fn set_word(&mut self, offset: u64, value: u32) {
        let entry = usize::try_from(offset / ENTRY_BYTES)
            .ok()
            .and_then(|number| self.entries.get_mut(number));
        let at = offset % ENTRY_BYTES;
        let Some(word) = entry.and_then(|entry| entry.words.get_mut((at / 4) as usize)) else {
            return;
        };
        *word = match at {
            0 => value & !3,
            CONTROL => value & MASKED,
            _ => value,
        };
    }
}
