//! Sizes of memory as a manifest writes them: `"256M"`, `"1GiB"`.

use core::fmt;

use super::quantity::{self, QuantityFault};
use bulkhead_host::addr::SIZE_2M;

/// The least memory a VM can have, and what its memory must be a multiple of: one large page.
pub const GRANULE: ByteSize = ByteSize(SIZE_2M);
/// The most memory one VM can be given. Sixty-four of these add up without overflow.
pub const MAX: ByteSize = ByteSize(1 << 40);

/// The units, the largest first, each as it is shown before its other name.
const UNITS: [(&str, u64); 8] = [
    ("T", 1 << 40),
    ("TiB", 1 << 40),
    ("G", 1 << 30),
    ("GiB", 1 << 30),
    ("M", 1 << 20),
    ("MiB", 1 << 20),
    ("K", 1 << 10),
    ("KiB", 1 << 10),
];

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// Why a text is not a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeFault {
    /// It does not begin with a whole number.
    NoNumber,
    /// A number stands alone.
    NoUnit,
    /// What follows the number is none of the units.
    UnknownUnit,
    /// More bytes than [`MAX`].
    TooLarge,
    /// Fewer bytes than [`GRANULE`].
    TooSmall,
    /// Not a multiple of [`GRANULE`].
    Unaligned {
        /// The multiple below.
        below: ByteSize,
        /// The multiple above.
        above: ByteSize,
    },
}

impl From<QuantityFault> for SizeFault {
    fn from(fault: QuantityFault) -> Self {
        match fault {
            QuantityFault::NoNumber => Self::NoNumber,
            QuantityFault::NoUnit => Self::NoUnit,
            QuantityFault::UnknownUnit => Self::UnknownUnit,
            QuantityFault::TooLarge => Self::TooLarge,
        }
    }
}

impl ByteSize {
    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Reads the memory size of a VM: a whole number and a binary unit, in granules.
    ///
    /// # Errors
    /// Says which rule `text` breaks.
    pub fn parse_memory(text: &str) -> Result<Self, SizeFault> {
        Self(quantity::parse(text, &UNITS)?).in_granules()
    }

    fn in_granules(self) -> Result<Self, SizeFault> {
        if self > MAX {
            return Err(SizeFault::TooLarge);
        }
        if self < GRANULE {
            return Err(SizeFault::TooSmall);
        }
        let beyond = self.0 % GRANULE.0;
        if beyond != 0 {
            let below = self.0 - beyond;
            return Err(SizeFault::Unaligned {
                below: Self(below),
                above: Self(below.saturating_add(GRANULE.0)),
            });
        }
        Ok(self)
    }
}

/// Shown in the largest unit that divides it, as the manifest would have it.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        quantity::show(f, self.0, &UNITS, "bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn units_are_binary() {
        assert_eq!(ByteSize::parse_memory("4096K"), Ok(ByteSize(4 << 20)));
        assert_eq!(ByteSize::parse_memory("4096KiB"), Ok(ByteSize(4 << 20)));
        assert_eq!(ByteSize::parse_memory("256M"), Ok(ByteSize(256 << 20)));
        assert_eq!(ByteSize::parse_memory("256 MiB"), Ok(ByteSize(256 << 20)));
        assert_eq!(ByteSize::parse_memory("3GiB"), Ok(ByteSize(3 << 30)));
        assert_eq!(ByteSize::parse_memory("1T"), Ok(MAX));
    }

    #[test]
    fn each_rule_has_its_fault() {
        use SizeFault::{NoNumber, NoUnit, TooLarge, TooSmall, UnknownUnit};
        let cases = [
            ("", NoNumber),
            ("M", NoNumber),
            ("-1M", NoNumber),
            ("+1M", NoNumber),
            (" 1M", NoNumber),
            ("256", NoUnit),
            ("256 ", NoUnit),
            ("256m", UnknownUnit),
            ("256MB", UnknownUnit),
            ("1.5G", UnknownUnit),
            ("256M ", UnknownUnit),
            ("0M", TooSmall),
            ("1M", TooSmall),
            ("2047K", TooSmall),
            ("1025G", TooLarge),
            ("2T", TooLarge),
            ("99999999999999999999M", TooLarge),
            ("18446744073709551615G", TooLarge),
        ];
        for (text, fault) in cases {
            assert_eq!(ByteSize::parse_memory(text), Err(fault), "{text:?}");
        }
    }

    #[test]
    fn an_unaligned_size_names_its_neighbours() {
        let fault = SizeFault::Unaligned {
            below: ByteSize(2 << 20),
            above: ByteSize(4 << 20),
        };
        assert_eq!(ByteSize::parse_memory("3M"), Err(fault));
    }

    #[test]
    fn sizes_are_shown_as_they_are_written() {
        for text in ["2M", "256M", "3G", "1T", "2050M"] {
            let size = ByteSize::parse_memory(text).unwrap();
            assert_eq!(size.to_string(), text);
        }
        assert_eq!(ByteSize(0).to_string(), "0 bytes");
        assert_eq!(ByteSize(1023).to_string(), "1023 bytes");
    }
}
