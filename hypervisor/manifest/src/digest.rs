//! The SHA-256 a manifest pins a payload to.

use core::fmt;

/// A SHA-256 as its 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256Digest(pub [u8; 32]);

/// Why a text is not a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestFault {
    /// Not 64 digits but this many characters.
    Length(usize),
    /// This character is no hexadecimal digit.
    Character(char),
}

impl Sha256Digest {
    /// Reads 64 hexadecimal digits, as `sha256sum` prints them.
    ///
    /// # Errors
    /// Says which rule `text` breaks.
    pub fn parse(text: &str) -> Result<Self, DigestFault> {
        if let Some(stray) = text.chars().find(|c| !c.is_ascii_hexdigit()) {
            return Err(DigestFault::Character(stray));
        }
        let wrong_length = DigestFault::Length(text.len());
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
            return Err(wrong_length);
        };
        let pairs: &[[u8; 2]; 32] = pairs.try_into().map_err(|_| wrong_length)?;
        Ok(Self(
            pairs.map(|[high, low]| nibble(high) << 4 | nibble(low)),
        ))
    }

    /// The digest's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The value of an ASCII hexadecimal digit.
fn nibble(digit: u8) -> u8 {
    char::from(digit)
        .to_digit(16)
        .map_or(0, |value| value as u8)
}

/// As `sha256sum` prints it.
impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256Digest({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    /// SHA-256 of the empty string.
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digests_read_back_as_they_are_shown() {
        let digest = Sha256Digest::parse(EMPTY).unwrap();
        assert_eq!(digest.as_bytes()[..3], [0xe3, 0xb0, 0xc4]);
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(Sha256Digest::parse(&EMPTY.to_uppercase()), Ok(digest));
    }

    #[test]
    fn each_rule_has_its_fault() {
        assert_eq!(Sha256Digest::parse(""), Err(DigestFault::Length(0)));
        assert_eq!(
            Sha256Digest::parse(&EMPTY[1..]),
            Err(DigestFault::Length(63))
        );
        assert_eq!(
            Sha256Digest::parse(&EMPTY[2..]),
            Err(DigestFault::Length(62))
        );
        assert_eq!(
            Sha256Digest::parse(&EMPTY.repeat(2)),
            Err(DigestFault::Length(128))
        );
        assert_eq!(Sha256Digest::parse("xyz"), Err(DigestFault::Character('x')));
    }
}
