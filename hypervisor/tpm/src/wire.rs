//! Big-endian bytes, as the TPM has them: [`Reader`] takes them apart with every length checked, [`Writer`] puts them together.

use alloc::vec::Vec;
use zeroize::Zeroizing;

/// The most bytes of a command or an answer, and of the room offered for one. A firmware may refuse room that is not smaller than the
/// largest answer its TPM gives, whatever the answer will be: EDK II does; and there are TPMs that give 1024 bytes at most.
pub(crate) const MOST_BYTES: usize = 896;

/// Reads from the front of `bytes`.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// There are fewer bytes than the structure has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Short {
    /// Where the missing bytes would begin.
    pub(crate) at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(crate) const fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Short> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or(Short { at: self.at })?;
        self.at += count;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let short = Short { at: self.at };
        self.take(N)?.try_into().map_err(|_| short)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Short> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_be_bytes)
    }

    /// A `TPM2B`: bytes after their count.
    pub(crate) fn sized(&mut self) -> Result<&'a [u8], Short> {
        let count = self.u16()?;
        self.take(count.into())
    }
}

/// Bytes under way to the TPM. They may hold a key: wiped when dropped, and never moved to grow.
pub(crate) struct Writer {
    bytes: Zeroizing<Vec<u8>>,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self {
            bytes: Zeroizing::new(Vec::with_capacity(MOST_BYTES)),
        }
    }

    /// What does not fit is left out, which makes the command one that the TPM refuses for its length.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> &mut Self {
        if self.bytes.len() + bytes.len() <= MOST_BYTES {
            self.bytes.extend_from_slice(bytes);
        }
        self
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.put(&[value])
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.put(&value.to_be_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_be_bytes())
    }

    /// A `TPM2B`: the count, then the bytes. Nothing here is as long as the count cannot say.
    pub(crate) fn sized(&mut self, bytes: &[u8]) -> &mut Self {
        self.u16(bytes.len() as u16).put(bytes)
    }

    /// Writes over the four bytes at `at`.
    pub(crate) fn patch(&mut self, at: usize, value: u32) {
        if let Some(place) = self.bytes.get_mut(at..at.saturating_add(4)) {
            place.copy_from_slice(&value.to_be_bytes());
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
