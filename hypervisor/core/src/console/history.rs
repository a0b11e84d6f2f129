//! The end of the log, kept in memory: for the command `log`, and for a debugger on a machine that shows nothing.

use alloc::boxed::Box;
use alloc::vec;

/// The last bytes of the log. Its memory is taken once.
#[derive(Clone, Debug)]
pub struct History {
    bytes: Box<[u8]>,
    /// Where the next byte goes.
    next: usize,
    /// Every slot holds a byte.
    is_full: bool,
}

impl History {
    /// An empty one for `size` bytes.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self {
            bytes: vec![0; size].into_boxed_slice(),
            next: 0,
            is_full: false,
        }
    }

    /// Keeps `bytes`, at the expense of the oldest.
    pub fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let Some(slot) = self.bytes.get_mut(self.next) else {
                return;
            };
            *slot = *byte;
            self.next += 1;
            if self.next == self.bytes.len() {
                self.next = 0;
                self.is_full = true;
            }
        }
    }

    /// The last whole lines, `wanted` of them at most, in two pieces, and how many they are.
    #[must_use]
    pub fn last_lines(&self, wanted: u32) -> ([&[u8]; 2], u32) {
        let (new, old) = self.bytes.split_at(self.next);
        let old = if self.is_full { old } else { &[] };
        let mut lines = 0;
        // A line ends where the one before it is found to, or where everything begins, unless that was overwritten.
        let mut length = 0;
        let mut whole = 0;
        for byte in new.iter().rev().chain(old.iter().rev()) {
            if *byte == b'\n' {
                if length > 0 {
                    lines += 1;
                    whole = length;
                }
                if lines == wanted {
                    break;
                }
            }
            length += 1;
        }
        if lines < wanted && length == new.len() && !self.is_full && length > 0 {
            lines += 1;
            whole = length;
        }
        let from_new = whole.min(new.len());
        let from_old = whole - from_new;
        let end = |piece: &'_ [u8], count: usize| piece.len() - count;
        let pieces = [
            old.get(end(old, from_old)..).unwrap_or_default(),
            new.get(end(new, from_new)..).unwrap_or_default(),
        ];
        (pieces, lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(history: &History, wanted: u32) -> (String, u32) {
        let (pieces, lines) = history.last_lines(wanted);
        (String::from_utf8(pieces.concat()).unwrap(), lines)
    }

    #[test]
    fn the_last_lines_are_given_and_no_more_than_there_are() {
        let mut history = History::new(100);
        assert_eq!(last(&history, 3), (String::new(), 0));
        history.push(b"one\ntwo\nthree\n");
        assert_eq!(last(&history, 1), ("three\n".into(), 1));
        assert_eq!(last(&history, 2), ("two\nthree\n".into(), 2));
        assert_eq!(last(&history, 3), ("one\ntwo\nthree\n".into(), 3));
        assert_eq!(last(&history, 9), ("one\ntwo\nthree\n".into(), 3));
        assert_eq!(last(&history, 0), (String::new(), 0));
    }

    #[test]
    fn a_line_whose_beginning_was_overwritten_is_left_out() {
        let mut all = String::new();
        let mut history = History::new(64);
        for number in 0..100 {
            let line = format!("line {number} of a hundred\n");
            history.push(line.as_bytes());
            all.push_str(&line);
            let (text, lines) = last(&history, 1000);
            assert!(all.ends_with(&text) && text.len() <= 64);
            assert_eq!(text.lines().count() as u32, lines);
            assert!(text.starts_with("line "), "{text:?}");
        }
        let (text, lines) = last(&history, 1000);
        assert_eq!(
            (text.lines().next().unwrap(), lines),
            ("line 97 of a hundred", 3)
        );
    }

    #[test]
    fn a_history_without_memory_keeps_nothing() {
        let mut history = History::new(0);
        history.push(b"lost\n");
        assert_eq!(last(&history, 5), (String::new(), 0));
    }
}
