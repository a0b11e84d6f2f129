//! Output that waits to be seen: the last bytes of it, and how many were lost before them.

use alloc::collections::VecDeque;

/// Bytes that are kept.
pub(super) const CAPACITY: usize = 8 << 10;

/// A VM's unseen output. It never grows beyond what it was made with.
#[derive(Debug)]
pub(super) struct Backlog {
    bytes: VecDeque<u8>,
    lost: u64,
}

impl Backlog {
    pub(super) fn new() -> Self {
        Self {
            bytes: VecDeque::with_capacity(CAPACITY),
            lost: 0,
        }
    }

    /// Keeps `bytes`, at the expense of the oldest.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let beyond = bytes.len().saturating_sub(CAPACITY);
        let kept = bytes.get(beyond..).unwrap_or_default();
        let excess = (self.bytes.len() + kept.len()).saturating_sub(CAPACITY);
        self.bytes.drain(..excess);
        self.bytes.extend(kept);
        self.lost = self.lost.saturating_add((beyond + excess) as u64);
    }

    /// How many bytes are kept, and how many were lost.
    pub(super) fn size(&self) -> (usize, u64) {
        (self.bytes.len(), self.lost)
    }

    /// What is kept, oldest first, in two pieces.
    pub(super) fn pieces(&self) -> [&[u8]; 2] {
        self.bytes.as_slices().into()
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.lost = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(backlog: &Backlog) -> Vec<u8> {
        backlog.pieces().concat()
    }

    #[test]
    fn the_newest_bytes_are_kept_and_the_lost_counted() {
        let mut backlog = Backlog::new();
        let bytes: Vec<u8> = (0..3 * CAPACITY)
            .map(|n| n as u8 ^ (n >> 8) as u8)
            .collect();
        let mut given = 0;
        for piece in bytes.chunks(1000) {
            backlog.push(piece);
            given += piece.len();
            let expected = &bytes[given.saturating_sub(CAPACITY)..given];
            assert_eq!(kept(&backlog), expected);
            assert_eq!(
                backlog.size(),
                (expected.len(), (given - expected.len()) as u64)
            );
        }
        assert_eq!(backlog.bytes.capacity(), CAPACITY);
    }

    #[test]
    fn one_write_longer_than_all_that_is_kept_leaves_its_end() {
        let mut backlog = Backlog::new();
        backlog.push(b"old");
        let bytes: Vec<u8> = (0..CAPACITY + 5).map(|n| n as u8).collect();
        backlog.push(&bytes);
        assert_eq!(kept(&backlog), bytes[5..]);
        assert_eq!(backlog.size(), (CAPACITY, 8));
        backlog.clear();
        assert_eq!(backlog.size(), (0, 0));
    }
}
