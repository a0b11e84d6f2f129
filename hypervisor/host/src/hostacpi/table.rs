//! One ACPI table: its header, its checksum, its bytes.

use alloc::vec;
use alloc::vec::Vec;

use crate::addr::Hpa;

use super::{HostPhys, Signature, Warning};

/// Bytes of the header that all tables share.
pub(crate) const HEADER_LEN: usize = 36;
/// The longest table that is loaded as a whole: MADTs of big machines stay below this.
const MAX_LOADED: usize = 64 << 10;
/// The longest table at all: some laptops' DSDTs come near 1 MiB.
const MAX_LENGTH: usize = 4 << 20;

/// A table whose length and checksum are right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableRef {
    /// Its name.
    pub signature: Signature,
    /// Where it is.
    pub at: Hpa,
    /// Its length in bytes, header included.
    pub length: u32,
}

impl TableRef {
    /// Its bytes, or `None` where it is too long to load.
    #[inline(never)]
    pub fn load(self, memory: &mut dyn HostPhys) -> Option<Vec<u8>> {
        let length = usize::try_from(self.length)
            .ok()
            .filter(|length| *length <= MAX_LOADED)?;
        let mut bytes = vec![0; length];
        memory.read(self.at, &mut bytes).then_some(bytes)
    }

    /// Calls `look` with one piece of the table after the other until it finds something. Each piece
    /// begins with the last `overlap` bytes of the one before, so what is that long is seen whole.
    pub(super) fn scan<T>(
        self,
        memory: &mut dyn HostPhys,
        overlap: usize,
        mut look: impl FnMut(&[u8]) -> Option<T>,
    ) -> Option<T> {
        let mut piece = [0; PIECE];
        let (mut done, mut kept) = (0u64, 0);
        while done < u64::from(self.length) {
            let left = usize::try_from(u64::from(self.length) - done).ok()?;
            let fresh = left.min(PIECE - kept);
            let into = piece.get_mut(kept..kept + fresh)?;
            if !memory.read(self.at.checked_add(done)?, into) {
                return None;
            }
            let filled = kept + fresh;
            if let Some(found) = look(piece.get(..filled)?) {
                return Some(found);
            }
            done += fresh as u64;
            kept = overlap.min(filled);
            piece.copy_within(filled - kept..filled, 0);
        }
        None
    }
}

/// Bytes looked at together in a scan.
const PIECE: usize = 1024;

/// A table's header as read, nothing checked.
pub(super) struct Header(TableRef);

impl Header {
    pub(super) fn read(memory: &mut dyn HostPhys, at: Hpa) -> Option<Self> {
        let mut bytes = [0; 8];
        if !memory.read(at, &mut bytes) {
            return None;
        }
        let [a, b, c, d, length @ ..] = bytes;
        let length = u32::from_le_bytes(length);
        Some(Self(TableRef {
            signature: Signature([a, b, c, d]),
            at,
            length,
        }))
    }

    /// The table, once its length makes sense and its bytes sum to zero.
    pub(super) fn check(self, memory: &mut dyn HostPhys) -> Result<TableRef, Warning> {
        let Self(table) = self;
        let length = table.length as usize;
        let end = table.at.checked_add(table.length.into());
        if !(HEADER_LEN..=MAX_LENGTH).contains(&length) || end.is_none() {
            return Err(Warning::BadLength(table));
        }
        let (mut total, mut seen) = (0u8, 0usize);
        let nothing: Option<()> = table.scan(memory, 0, |piece| {
            total = total.wrapping_add(sum(piece));
            seen += piece.len();
            None
        });
        match (nothing, seen == length, total) {
            (_, false, _) => Err(Warning::Unreadable(table.at)),
            (_, true, 0) => Ok(table),
            (_, true, _) => Err(Warning::BadChecksum(table)),
        }
    }
}

/// The sum of all bytes: 0 for a table or RSDP that is as its maker left it.
pub(crate) fn sum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0, |total: u8, byte| total.wrapping_add(*byte))
}

pub(crate) fn byte(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|raw| u16::from_le_bytes(*raw))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|raw| u32::from_le_bytes(*raw))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|raw| u64::from_le_bytes(*raw))
}
