//! A line that is typed, echoed as it comes: a word and perhaps a number.

use test_guests::{print, println, serial};

/// Longer lines are cut.
const MAX_LENGTH: usize = 64;

/// A line under way.
pub(crate) struct Line {
    bytes: [u8; MAX_LENGTH],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; MAX_LENGTH],
            length: 0,
        }
    }
}

impl Line {
    /// Takes what was typed. Once that was Enter: the line's first word, and the number after it.
    pub(crate) fn read(&mut self) -> Option<(&str, Option<u64>)> {
        while let Some(byte) = serial::receive() {
            if byte == b'\r' {
                println!("");
                return Some(self.command());
            }
            print!("{}", byte as char);
            if let Some(room) = self.bytes.get_mut(self.length) {
                *room = byte;
                self.length += 1;
            }
        }
        None
    }

    /// Begins anew.
    pub(crate) fn clear(&mut self) {
        self.length = 0;
    }

    fn command(&self) -> (&str, Option<u64>) {
        let bytes = self.bytes.get(..self.length).unwrap_or_default();
        let mut words = core::str::from_utf8(bytes)
            .unwrap_or_default()
            .split_ascii_whitespace();
        let word = words.next().unwrap_or_default();
        (word, words.next().and_then(number))
    }
}

fn number(word: &str) -> Option<u64> {
    match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    }
}
