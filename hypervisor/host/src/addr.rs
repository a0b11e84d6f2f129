//! Address and size types: host physical, guest physical, guest virtual, frames.
//!
//! Addresses are never bare integers (see `docs/architecture.md`, "Words"). Arithmetic that a guest
//! could overflow is checked: the operators that would wrap do not exist.

use core::fmt;

/// Bytes in a frame, the unit of ownership.
pub const FRAME_SIZE: u64 = 4096;
/// Bytes in a 2 MiB page.
pub const SIZE_2M: u64 = 2 << 20;
/// Bytes in a 1 GiB page.
pub const SIZE_1G: u64 = 1 << 30;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident, $label:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The raw value in bytes.
            #[inline]
            #[must_use]
            pub const fn as_u64(self) -> u64 {
                self.0
            }

            /// `self + bytes`, or `None` where that overflows.
            #[inline]
            #[must_use]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// The start of the `align`-byte block holding this address; `align` is a power of two.
            #[inline]
            #[must_use]
            pub const fn align_down(self, align: u64) -> Self {
                Self(self.0 & !(align - 1))
            }

            /// Whether this address is a multiple of `align`, a power of two.
            #[inline]
            #[must_use]
            pub const fn is_aligned(self, align: u64) -> bool {
                self.0 & (align - 1) == 0
            }

            /// Byte offset within the 4 KiB page.
            #[inline]
            #[must_use]
            pub const fn page_offset(self) -> u64 {
                self.0 & (FRAME_SIZE - 1)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($label, ":{:#x}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address!(
    /// A host physical address in bytes.
    Hpa,
    "hpa"
);
address!(
    /// A guest physical address in bytes.
    Gpa,
    "gpa"
);
address!(
    /// A guest virtual address in bytes.
    Gva,
    "gva"
);

address!(
    /// A hypervisor virtual address in bytes.
    Hva,
    "hva"
);

/// A host frame number: a host physical address divided by 4 KiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Frame(pub u64);

impl Frame {
    /// The frame that holds `hpa`.
    #[inline]
    #[must_use]
    pub const fn containing(hpa: Hpa) -> Self {
        Self(hpa.0 / FRAME_SIZE)
    }

    /// The frame's first byte.
    #[inline]
    #[must_use]
    pub const fn start(self) -> Hpa {
        Hpa(self.0 * FRAME_SIZE)
    }
}

/// A number of 4 KiB frames.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct FrameCount(pub u64);

impl FrameCount {
    /// The frames that `bytes` need, rounded up.
    #[must_use]
    pub const fn covering(bytes: u64) -> Self {
        Self(bytes.div_ceil(FRAME_SIZE))
    }

    /// The size in bytes, or `None` where that overflows.
    #[must_use]
    pub const fn bytes(self) -> Option<u64> {
        self.0.checked_mul(FRAME_SIZE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checked_add_refuses_to_wrap() {
        assert_eq!(Gpa(u64::MAX).checked_add(1), None);
        assert_eq!(Gpa(0x1000).checked_add(0x234), Some(Gpa(0x1234)));
    }

    #[test]
    fn align_down_keeps_the_block() {
        assert_eq!(Hpa(0x20_1fff).align_down(SIZE_2M), Hpa(0x20_0000));
        assert!(Hpa(0x20_0000).is_aligned(SIZE_2M));
        assert_eq!(Hpa(0x1fff).page_offset(), 0xfff);
    }

    #[test]
    fn frames_cover_partial_pages() {
        assert_eq!(FrameCount::covering(1), FrameCount(1));
        assert_eq!(FrameCount::covering(4097), FrameCount(2));
        assert_eq!(FrameCount(u64::MAX).bytes(), None);
    }
}
