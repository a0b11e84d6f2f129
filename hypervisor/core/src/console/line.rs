//! The line being typed at the prompt: printable ASCII, rubbing out, and nothing else.

/// The most characters of a line.
pub(super) const MAX_LINE: usize = 256;

const INTERRUPT: u8 = 0x03;
const END_OF_INPUT: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const KILL: u8 = 0x15;
const ESCAPE: u8 = 0x1b;
const DELETE: u8 = 0x7f;

/// A line, and how far an escape sequence has come.
#[derive(Clone, Debug)]
pub(super) struct Line {
    bytes: [u8; MAX_LINE],
    length: usize,
    sequence: Sequence,
}

/// An escape sequence that is being skipped (ECMA-48, "Control sequences").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sequence {
    None,
    /// After ESC.
    Begun,
    /// After ESC `[`: parameters, up to a final byte.
    Control,
    /// After ESC `O`: one more byte.
    SingleShift,
}

/// What a typed byte did to the line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Edit {
    /// Nothing.
    Nothing,
    /// The line is full.
    Full,
    /// The byte was added.
    Added,
    /// So many characters were rubbed out at the end.
    Erased(usize),
    /// The line is done.
    Enter,
    /// The line is to be dropped, or the prompt left when there is none.
    Interrupt,
}

impl Line {
    pub(super) const fn new() -> Self {
        Self {
            bytes: [0; MAX_LINE],
            length: 0,
            sequence: Sequence::None,
        }
    }

    /// What has been typed.
    pub(super) fn text(&self) -> &str {
        let typed = self.bytes.get(..self.length).unwrap_or_default();
        // Only ASCII is ever added.
        core::str::from_utf8(typed).unwrap_or_default()
    }

    pub(super) const fn clear(&mut self) {
        self.length = 0;
        self.sequence = Sequence::None;
    }

    pub(super) fn typed(&mut self, byte: u8) -> Edit {
        if self.skips(byte) {
            return Edit::Nothing;
        }
        match byte {
            b'\r' | b'\n' => Edit::Enter,
            INTERRUPT => Edit::Interrupt,
            END_OF_INPUT if self.length == 0 => Edit::Interrupt,
            BACKSPACE | DELETE => self.erase(1),
            KILL => self.erase(self.length),
            b' '..=b'~' => self.add(byte),
            _ => Edit::Nothing,
        }
    }

    /// Whether `byte` belongs to an escape sequence. A control character never does, and ends one.
    fn skips(&mut self, byte: u8) -> bool {
        if byte == ESCAPE {
            self.sequence = Sequence::Begun;
            return true;
        }
        let before = self.sequence;
        self.sequence = match (before, byte) {
            (Sequence::Begun, b'[') => Sequence::Control,
            (Sequence::Begun, b'O') => Sequence::SingleShift,
            (Sequence::Control, b' '..=b'?') => Sequence::Control,
            _ => Sequence::None,
        };
        before != Sequence::None && byte >= b' '
    }

    fn add(&mut self, byte: u8) -> Edit {
        let Some(slot) = self.bytes.get_mut(self.length) else {
            return Edit::Full;
        };
        *slot = byte;
        self.length += 1;
        Edit::Added
    }

    fn erase(&mut self, count: usize) -> Edit {
        let count = count.min(self.length);
        self.length -= count;
        if count == 0 {
            Edit::Nothing
        } else {
            Edit::Erased(count)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(bytes: &[u8]) -> Line {
        let mut line = Line::new();
        for byte in bytes {
            line.typed(*byte);
        }
        line
    }

    #[test]
    fn rubbing_out_takes_the_last_character_or_all() {
        assert_eq!(after(b"lisx\x7ft").text(), "list");
        assert_eq!(after(b"lisx\x08t").text(), "list");
        assert_eq!(after(b"nonsense\x15list").text(), "list");
        let mut line = after(b"ab");
        assert_eq!(line.typed(KILL), Edit::Erased(2));
        assert_eq!(line.typed(DELETE), Edit::Nothing);
    }

    #[test]
    fn escape_sequences_leave_no_trace() {
        assert_eq!(after(b"l\x1b[Ai\x1b[1;5Cs\x1bOPt\x1bx").text(), "list");
        assert_eq!(after(b"li\x1b[3~st").text(), "list");
    }

    #[test]
    fn a_control_character_ends_an_escape_sequence() {
        let mut line = after(b"list\x1b[");
        assert_eq!(line.typed(b'\r'), Edit::Enter);
        let mut line = after(b"list\x1b");
        assert_eq!(line.typed(INTERRUPT), Edit::Interrupt);
    }

    #[test]
    fn a_full_line_refuses_more() {
        let mut line = after(&[b'x'; MAX_LINE]);
        assert_eq!(line.typed(b'y'), Edit::Full);
        assert_eq!(line.text().len(), MAX_LINE);
        assert_eq!(line.typed(BACKSPACE), Edit::Erased(1));
    }

    #[test]
    fn bytes_that_are_not_printable_ascii_are_ignored() {
        assert_eq!(after("lüst\t\0".as_bytes()).text(), "lst");
    }

    #[test]
    fn end_of_input_leaves_only_from_an_empty_line() {
        assert_eq!(after(b"").typed(END_OF_INPUT), Edit::Interrupt);
        assert_eq!(after(b"x").typed(END_OF_INPUT), Edit::Nothing);
    }
}
