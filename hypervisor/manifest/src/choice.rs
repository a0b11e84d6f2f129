//! Enumerations a manifest spells as a word.

/// A value that is one of a few words.
pub(super) trait Choice: Copy + 'static {
    /// Every word, in the order the documentation lists them.
    const WORDS: &'static [&'static str];
    /// What they mean, in the same order.
    const VALUES: &'static [Self];
}

/// Declares such an enumeration; one variant is marked `#[default]`.
macro_rules! choice {
    (
        $(#[$doc:meta])*
        pub enum $name:ident {
            $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $crate::choice::Choice for $name {
            const WORDS: &'static [&'static str] = &[$($word),+];
            const VALUES: &'static [Self] = &[$(Self::$variant),+];
        }

        impl $name {
            /// The word the manifest uses for it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }

            /// Every word there is.
            pub fn words() -> impl Iterator<Item = &'static str> {
                <Self as $crate::choice::Choice>::WORDS.iter().copied()
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

pub(super) use choice;
