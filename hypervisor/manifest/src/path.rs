//! The path of a payload, relative to the manifest and good on a FAT volume, over TFTP and on Linux.

use alloc::string::String;
use core::fmt;

/// The most bytes of a path: within what FAT, TFTP and the firmware's buffers all take.
pub const MAX_LENGTH: usize = 200;
/// The most bytes of one part between two slashes.
pub const MAX_COMPONENT: usize = 100;

/// A relative path of `/`-separated parts, none of them `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PayloadPath(String);

/// Why a text is not the path of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathFault {
    /// No characters at all.
    Empty,
    /// The path, or a part of it, is longer than the bounds.
    TooLong,
    /// It starts at a root.
    Absolute,
    /// It names a drive.
    Drive,
    /// It has a `\`.
    Backslash,
    /// It leaves the manifest's directory by `..`.
    Parent,
    /// A part is `.`, or nothing.
    EmptyPart,
    /// A part begins with a blank or ends with a blank or dot, which FAT drops.
    TrimmedPart,
    /// A character that FAT, or a TFTP server, does not take.
    Character(char),
}

impl PayloadPath {
    /// Checks `text`.
    ///
    /// # Errors
    /// Says which rule `text` breaks.
    pub fn parse(text: &str) -> Result<Self, PathFault> {
        if text.is_empty() {
            return Err(PathFault::Empty);
        }
        if text.contains('\\') {
            return Err(PathFault::Backslash);
        }
        if text.starts_with('/') {
            return Err(PathFault::Absolute);
        }
        if text.as_bytes().get(1) == Some(&b':') {
            return Err(PathFault::Drive);
        }
        if let Some(stray) = text.chars().find(|c| !is_portable(*c)) {
            return Err(PathFault::Character(stray));
        }
        if text.len() > MAX_LENGTH {
            return Err(PathFault::TooLong);
        }
        text.split('/').try_for_each(check_part)?;
        Ok(Self(String::from(text)))
    }

    /// The path, with `/` between its parts.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parts of the path, the file's name last; there is at least one.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

fn check_part(part: &str) -> Result<(), PathFault> {
    match part {
        "" | "." => Err(PathFault::EmptyPart),
        ".." => Err(PathFault::Parent),
        _ if part.starts_with(' ') || part.ends_with([' ', '.']) => Err(PathFault::TrimmedPart),
        _ if part.len() > MAX_COMPONENT => Err(PathFault::TooLong),
        _ => Ok(()),
    }
}

/// Printable ASCII that the FAT specification allows in a long file name, and the separator.
fn is_portable(c: char) -> bool {
    (c.is_ascii_graphic() || c == ' ')
        && !matches!(c, '"' | '*' | ':' | '<' | '>' | '?' | '|' | '\\')
}

impl fmt::Display for PayloadPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_are_kept_as_written() {
        for text in [
            "vmlinuz",
            "boot/vmlinuz-6.1.0-cloud-amd64",
            ".hidden/a b",
            "..a/b..c",
        ] {
            assert_eq!(PayloadPath::parse(text).unwrap().as_str(), text);
        }
        let path = PayloadPath::parse("a/b/c").unwrap();
        assert!(path.components().eq(["a", "b", "c"]));
    }

    #[test]
    fn each_rule_has_its_fault() {
        use PathFault::*;
        let long = "x".repeat(MAX_COMPONENT + 1);
        let deep = "x/".repeat(MAX_LENGTH);
        let cases = [
            ("", Empty),
            ("/boot/vmlinuz", Absolute),
            ("\\boot", Backslash),
            ("a\\b", Backslash),
            ("C:/vmlinuz", Drive),
            ("..", Parent),
            ("a/../b", Parent),
            ("../a", Parent),
            ("a//b", EmptyPart),
            ("a/", EmptyPart),
            ("./a", EmptyPart),
            ("a/./b", EmptyPart),
            ("a /b", TrimmedPart),
            (" a", TrimmedPart),
            ("a.", TrimmedPart),
            ("a./b", TrimmedPart),
            ("a*", Character('*')),
            ("ab:c", Character(':')),
            ("a\nb", Character('\n')),
            ("ä", Character('ä')),
            ("a\0", Character('\0')),
            (&long, TooLong),
            (&deep, TooLong),
        ];
        for (text, fault) in cases {
            assert_eq!(PayloadPath::parse(text), Err(fault), "{text:?}");
        }
    }
}
