//! The name of a sealed root key, by which a manifest says which one may be given up.

use core::fmt;

/// The first 32 bits of the SHA-256 of a sealed root key.
///
/// A name and no secret: long enough that a manifest which stays as it was does not happen to name the next key, short enough
/// to be typed from a screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SealId(pub u32);

impl SealId {
    /// Reads 8 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u32::from_str_radix(text, 16).ok();
        number.filter(|_| digits).map(Self)
    }
}

/// As the manifest writes it.
impl fmt::Display for SealId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_name_reads_back_as_it_is_shown() {
        let id = SealId::parse("00c0ffee").unwrap();
        assert_eq!(id, SealId(0x00c0_ffee));
        assert_eq!(id.to_string(), "00c0ffee");
        assert_eq!(SealId::parse("00C0FFEE"), Some(id));
    }

    #[test]
    fn anything_but_eight_digits_is_no_name() {
        for text in [
            "",
            "c0ffee",
            "00c0ffee0",
            "+0c0ffee",
            "00c0ffeg",
            "00c0ff\u{e9}",
        ] {
            assert_eq!(SealId::parse(text), None, "{text}");
        }
    }
}
