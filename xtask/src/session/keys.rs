//! What is typed into a console: a line of text, or keys that have no character.

/// What Enter sends.
const ENTER: u8 = b'\r';

/// A sequence of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys(Vec<u8>);

impl Keys {
    /// The characters of `text` as they are, and Enter.
    #[must_use]
    pub fn line(text: &str) -> Self {
        let mut keys = text.as_bytes().to_vec();
        keys.push(ENTER);
        Self(keys)
    }

    /// Reads `text` with its escapes: `\xNN` is the key with that code, `\r` is Enter, `\\` is a backslash. Other
    /// backslashes stand for themselves. Enter follows, unless the text ends with one.
    ///
    /// # Errors
    /// When `\x` is not followed by two hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut keys = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('\\') {
            keys.extend_from_slice(&rest.as_bytes()[..at]);
            rest = &rest[at..];
            let (key, length) = if let Some(digits) = rest.strip_prefix("\\x") {
                let digits = digits.get(..2).unwrap_or(digits);
                let code = u8::from_str_radix(digits, 16).ok();
                let code = code.filter(|_| digits.len() == 2 && !digits.starts_with('+'));
                (
                    code.ok_or("\\x needs two hexadecimal digits, as in \\x1d")?,
                    4,
                )
            } else if rest.starts_with("\\r") {
                (ENTER, 2)
            } else if rest.starts_with("\\\\") {
                (b'\\', 2)
            } else {
                (b'\\', 1)
            };
            keys.push(key);
            rest = &rest[length..];
        }
        keys.extend_from_slice(rest.as_bytes());
        if keys.last() != Some(&ENTER) {
            keys.push(ENTER);
        }
        Ok(Self(keys))
    }

    /// The bytes that the keys send.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// What a terminal that echoes shows of them: the characters.
    #[must_use]
    pub fn shown(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        text.chars().filter(|c| !c.is_control()).collect()
    }
}

impl std::fmt::Display for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys = self.0.strip_suffix(&[ENTER]).unwrap_or(&self.0);
        write!(f, "{}", keys.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        Keys::parse(text).unwrap().bytes().to_vec()
    }

    #[test]
    fn a_line_without_escapes_is_typed_with_enter() {
        assert_eq!(bytes("uname -r"), b"uname -r\r");
        assert_eq!(Keys::parse("uname -r").unwrap(), Keys::line("uname -r"));
    }

    #[test]
    fn keys_without_a_character_are_written_as_codes() {
        assert_eq!(bytes(r"\x1dswitch b\r"), b"\x1dswitch b\r");
        assert_eq!(bytes(r"\x1d\x1d"), b"\x1d\x1d\r");
        assert_eq!(bytes(r"a\rb"), b"a\rb\r");
    }

    #[test]
    fn other_backslashes_stand_for_themselves() {
        assert_eq!(bytes(r"printf 'a\nb\\'"), b"printf 'a\\nb\\'\r");
        assert_eq!(bytes("\\"), b"\\\r");
    }

    #[test]
    fn a_code_has_two_digits() {
        for text in [r"\x", r"\x1", r"\xzz", r"\x+1", "\\x\u{e9}"] {
            assert!(Keys::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_terminal_shows_the_characters_only() {
        assert_eq!(Keys::parse(r"\x1dlist\r\r").unwrap().shown(), "list");
        assert_eq!(Keys::parse(r"\x1dlist").unwrap().to_string(), r"\x1dlist");
    }
}
