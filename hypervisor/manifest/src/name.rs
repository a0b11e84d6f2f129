//! The names a manifest gives: of a VM, fit to stand in log lines, events and `module:<name>` views, and of a network segment.

use alloc::string::String;
use core::fmt;

/// The most characters of a name.
pub const MAX_LENGTH: usize = 32;

/// Why a text is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameFault {
    /// No characters at all.
    Empty,
    /// More than [`MAX_LENGTH`].
    TooLong,
    /// This character has no place here.
    Character(char),
}

/// Declares the name of one kind of thing: all names follow the same rules, and none is mistaken for another's.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Checks `text`.
            ///
            /// # Errors
            /// Says which rule `text` breaks.
            pub fn parse(text: &str) -> Result<Self, NameFault> {
                check(text)?;
                Ok(Self(String::from(text)))
            }

            /// The name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name! {
    /// A VM's name: a lower-case letter, then lower-case letters, digits and `-`.
    VmName
}

name! {
    /// The name of a network segment, which is there because NICs name it: by the rules of [`VmName`].
    SegmentName
}

fn check(text: &str) -> Result<(), NameFault> {
    let first = text.chars().next().ok_or(NameFault::Empty)?;
    if !first.is_ascii_lowercase() {
        return Err(NameFault::Character(first));
    }
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if let Some(stray) = text.chars().find(|c| !fits(*c)) {
        return Err(NameFault::Character(stray));
    }
    if text.len() > MAX_LENGTH {
        return Err(NameFault::TooLong);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_words() {
        for text in ["a", "demo", "web-1", "x86-64", &"n".repeat(MAX_LENGTH)] {
            assert_eq!(VmName::parse(text).unwrap().as_str(), text);
            assert_eq!(SegmentName::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn each_rule_has_its_fault() {
        assert_eq!(VmName::parse(""), Err(NameFault::Empty));
        assert_eq!(VmName::parse("1st"), Err(NameFault::Character('1')));
        assert_eq!(VmName::parse("-a"), Err(NameFault::Character('-')));
        assert_eq!(VmName::parse("a b"), Err(NameFault::Character(' ')));
        assert_eq!(VmName::parse("aB"), Err(NameFault::Character('B')));
        assert_eq!(VmName::parse("a\nb"), Err(NameFault::Character('\n')));
        assert_eq!(
            VmName::parse(&"n".repeat(MAX_LENGTH + 1)),
            Err(NameFault::TooLong)
        );
    }
}
