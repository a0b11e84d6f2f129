//! Writing one JSON object, without memory for it.

use core::fmt::{self, Display, Write};

/// A JSON object being written. It opens with the event's name, so that a comma precedes every further member.
pub(super) struct Object<'w> {
    out: &'w mut dyn Write,
}

impl<'w> Object<'w> {
    pub(super) fn open(out: &'w mut dyn Write, event: &str) -> Result<Self, fmt::Error> {
        write!(out, "{{\"event\":\"{event}\"")?;
        Ok(Self { out })
    }

    pub(super) fn number(&mut self, key: &str, value: u64) -> fmt::Result {
        write!(self.out, ",\"{key}\":{value}")
    }

    pub(super) fn text(&mut self, key: &str, value: &dyn Display) -> fmt::Result {
        write!(self.out, ",\"{key}\":\"")?;
        write!(Escaped(&mut *self.out), "{value}")?;
        self.out.write_char('"')
    }

    pub(super) fn tally(&mut self, key: &str, counts: &[(&str, u64)]) -> fmt::Result {
        write!(self.out, ",\"{key}\":{{")?;
        for (index, (name, count)) in counts.iter().enumerate() {
            self.out.write_str(if index == 0 { "\"" } else { ",\"" })?;
            Escaped(&mut *self.out).write_str(name)?;
            write!(self.out, "\":{count}")?;
        }
        self.out.write_char('}')
    }

    pub(super) fn truth(&mut self, key: &str, value: bool) -> fmt::Result {
        write!(self.out, ",\"{key}\":{value}")
    }

    /// A number that people read in hexadecimal: an address, a register.
    pub(super) fn hex(&mut self, key: &str, value: u64) -> fmt::Result {
        write!(self.out, ",\"{key}\":\"{value:#x}\"")
    }

    pub(super) fn close(self) -> fmt::Result {
        self.out.write_str("}\n")
    }
}

/// Escapes what passes through for the inside of a JSON string.
struct Escaped<'w>(&'w mut dyn Write);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| self.write_char(c))
    }

    fn write_char(&mut self, c: char) -> fmt::Result {
        match c {
            '"' => self.0.write_str("\\\""),
            '\\' => self.0.write_str("\\\\"),
            '\n' => self.0.write_str("\\n"),
            '\r' => self.0.write_str("\\r"),
            '\t' => self.0.write_str("\\t"),
            '\0'..='\u{1f}' | '\u{7f}' => write!(self.0, "\\u{:04x}", u32::from(c)),
            _ => self.0.write_char(c),
        }
    }
}
