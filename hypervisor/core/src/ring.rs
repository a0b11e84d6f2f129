//! A byte ring of fixed size with a single owner: device FIFOs, console output, log tails.
//!
//! It never allocates and never overwrites: a full ring refuses, and its owner decides what that means.

/// A first-in first-out byte queue of `N` bytes; `N` is a power of two.
#[derive(Clone, Debug)]
pub struct ByteRing<const N: usize> {
    bytes: [u8; N],
    /// Bytes ever taken; the next one to take is at this position modulo `N`.
    taken: u32,
    /// Bytes ever put. `put - taken`, wrapping, is the number held.
    put: u32,
}

impl<const N: usize> ByteRing<N> {
    const MASK: u32 = {
        assert!(N.is_power_of_two() && N <= 1 << 30);
        N as u32 - 1
    };

    /// An empty ring.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: [0; N],
            taken: 0,
            put: 0,
        }
    }

    /// Bytes held.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.put.wrapping_sub(self.taken) as usize
    }

    /// Whether nothing is held.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.put == self.taken
    }

    /// Bytes that still fit.
    #[inline]
    #[must_use]
    pub const fn room(&self) -> usize {
        N - self.len()
    }

    /// Puts one byte at the end; false, and no change, where the ring is full.
    #[inline]
    #[must_use]
    pub fn push(&mut self, byte: u8) -> bool {
        if self.room() == 0 {
            return false;
        }
        if let Some(slot) = self.bytes.get_mut((self.put & Self::MASK) as usize) {
            *slot = byte;
        }
        self.put = self.put.wrapping_add(1);
        true
    }

    /// Takes the oldest byte.
    #[inline]
    #[must_use]
    pub fn pop(&mut self) -> Option<u8> {
        let byte = self.front()?;
        self.taken = self.taken.wrapping_add(1);
        Some(byte)
    }

    /// The oldest byte, left in place.
    #[inline]
    #[must_use]
    pub fn front(&self) -> Option<u8> {
        if self.is_empty() {
            return None;
        }
        self.bytes.get((self.taken & Self::MASK) as usize).copied()
    }

    /// Puts as many of `bytes` as fit and says how many did.
    #[must_use]
    pub fn push_slice(&mut self, bytes: &[u8]) -> usize {
        bytes.iter().take_while(|byte| self.push(**byte)).count()
    }

    /// Moves the oldest bytes into `into` and says how many there were.
    #[must_use]
    pub fn pop_slice(&mut self, into: &mut [u8]) -> usize {
        let mut count = 0;
        for slot in into {
            let Some(byte) = self.pop() else { break };
            *slot = byte;
            count += 1;
        }
        count
    }

    /// Forgets everything held.
    pub const fn clear(&mut self) {
        self.taken = self.put;
    }
}

impl<const N: usize> Default for ByteRing<N> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn full_ring_refuses_and_keeps_its_bytes() {
        let mut ring = ByteRing::<4>::new();
        assert_eq!(ring.push_slice(b"abcdef"), 4);
        assert!(!ring.push(b'x'));
        let mut out = [0; 8];
        assert_eq!(ring.pop_slice(&mut out), 4);
        assert_eq!(&out[..4], b"abcd");
        assert!(ring.is_empty());
    }

    #[test]
    fn counters_may_wrap() {
        let mut ring = ByteRing::<4>::new();
        ring.put = u32::MAX;
        ring.taken = u32::MAX;
        assert_eq!(ring.push_slice(b"xyz"), 3);
        assert_eq!(ring.len(), 3);
        assert_eq!(ring.pop(), Some(b'x'));
        assert_eq!(ring.front(), Some(b'y'));
        ring.clear();
        assert_eq!(ring.pop(), None);
    }

    proptest! {
        #[test]
        fn behaves_as_a_bounded_queue(steps in proptest::collection::vec(proptest::option::of(any::<u8>()), 0..400)) {
            let mut ring = ByteRing::<16>::new();
            let mut model = VecDeque::new();
            for step in steps {
                if let Some(byte) = step {
                    let fits = model.len() < 16;
                    prop_assert_eq!(ring.push(byte), fits);
                    if fits {
                        model.push_back(byte);
                    }
                } else {
                    prop_assert_eq!(ring.pop(), model.pop_front());
                }
                prop_assert_eq!(ring.len(), model.len());
                prop_assert_eq!(ring.room(), 16 - model.len());
            }
        }
    }
}
