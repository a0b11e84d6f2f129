//! Serial output without terminal control: what is matched, logged and printed where there is no terminal.

/// Removes carriage returns and ANSI escape sequences from a byte stream, across chunk borders.
#[derive(Debug, Default)]
pub struct Cleaner {
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// In a control sequence, up to its final byte.
    Control,
    /// In an operating system command, up to BEL or ESC.
    Command,
    /// After ESC and a character-set selector: one more byte.
    Designator,
}

impl Cleaner {
    /// The text in `bytes`, the next piece of the stream.
    pub fn clean(&mut self, bytes: &[u8]) -> Vec<u8> {
        bytes
            .iter()
            .copied()
            .filter(|byte| self.is_text(*byte))
            .collect()
    }

    fn is_text(&mut self, byte: u8) -> bool {
        let (next, text) = match (self.state, byte) {
            (_, 0x1b) => (State::Escape, false),
            (State::Text, byte) => (
                State::Text,
                matches!(byte, b'\n' | b'\t' | 0x20..=0x7e | 0x80..),
            ),
            (State::Escape, b'[') => (State::Control, false),
            (State::Escape, b']') => (State::Command, false),
            (State::Escape, b'(' | b')') => (State::Designator, false),
            (State::Control, 0x40..=0x7e)
            | (State::Command, 0x07)
            | (State::Escape | State::Designator, _) => (State::Text, false),
            (state, _) => (state, false),
        };
        self.state = next;
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_and_returns_disappear_even_when_split() {
        let stream = b"\x1b[2J\x1b[01;01Hhi\r\n\x1b]0;title\x07~ # \x1b[6n\x1b(Bend";
        for chunk in [1, 2, 3, 100] {
            let mut cleaner = Cleaner::default();
            let text: Vec<u8> = stream
                .chunks(chunk)
                .flat_map(|piece| cleaner.clean(piece))
                .collect();
            assert_eq!(
                String::from_utf8_lossy(&text),
                "hi\n~ # end",
                "chunks of {chunk}"
            );
        }
    }
}
