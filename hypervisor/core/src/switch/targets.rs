//! A set of ports: where a frame goes.

use super::port::{MAX_PORTS, PortId};

/// Ports in a word.
const WORD: usize = u64::BITS as usize;
const WORDS: usize = MAX_PORTS.div_ceil(WORD);

/// The ports a frame goes to; as an iterator, lowest number first.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[must_use]
pub struct Targets([u64; WORDS]);

impl Targets {
    /// No port.
    pub const NONE: Self = Self([0; WORDS]);

    pub(super) fn one(port: PortId) -> Self {
        let mut set = Self::NONE;
        set.insert(port);
        set
    }

    /// Adds a port; one beyond [`MAX_PORTS`] is nobody.
    pub(super) fn insert(&mut self, port: PortId) {
        if let Some(word) = self.0.get_mut(usize::from(port.0) / WORD) {
            *word |= bit(port);
        }
    }

    pub(super) fn remove(&mut self, port: PortId) {
        if let Some(word) = self.0.get_mut(usize::from(port.0) / WORD) {
            *word &= !bit(port);
        }
    }

    /// The ports that are in `other` too.
    pub(super) fn both(mut self, other: &Self) -> Self {
        for (word, other) in self.0.iter_mut().zip(other.0) {
            *word &= other;
        }
        self
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::NONE
    }

    /// Whether `port` is one.
    #[must_use]
    pub fn contains(self, port: PortId) -> bool {
        self.0
            .get(usize::from(port.0) / WORD)
            .is_some_and(|word| word & bit(port) != 0)
    }
}

/// A port's bit in its word.
const fn bit(port: PortId) -> u64 {
    1 << (port.0 as usize % WORD)
}

impl Iterator for Targets {
    type Item = PortId;

    fn next(&mut self) -> Option<PortId> {
        let (index, word) = self
            .0
            .iter_mut()
            .enumerate()
            .find(|(_, word)| **word != 0)?;
        let port = index * WORD + word.trailing_zeros() as usize;
        *word &= *word - 1;
        Some(PortId(port as u16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_gives_its_ports_in_order_once() {
        let numbers = [511, 3, 64, 63, 0, 3, 512, u16::MAX];
        let mut set = Targets::NONE;
        for number in numbers {
            set.insert(PortId(number));
        }
        assert_eq!(
            set.collect::<Vec<_>>(),
            [0, 3, 63, 64, 511].map(PortId),
            "ports beyond the last are nobody"
        );
        for number in 0..=u16::MAX {
            let expected = numbers.contains(&number) && usize::from(number) < MAX_PORTS;
            assert_eq!(set.contains(PortId(number)), expected);
        }
        set.remove(PortId(63));
        set.remove(PortId(600));
        assert_eq!(set.count(), 4);
        assert!(set.both(&Targets::one(PortId(63))).is_empty());
    }
}
