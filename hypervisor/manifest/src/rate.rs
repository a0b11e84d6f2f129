//! Rates of data as a manifest writes them: `"10M"`, `"1G"`, in bits per second.

use core::fmt;

use super::quantity::{self, QuantityFault};

/// The least rate a NIC can be held to.
pub const MIN: BitRate = BitRate(64_000);
/// The highest rate that can be asked for.
pub const MAX: BitRate = BitRate(100_000_000_000);

/// The units, the largest first.
const UNITS: [(&str, u64); 3] = [("G", 1_000_000_000), ("M", 1_000_000), ("K", 1_000)];

/// A number of bits per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BitRate(pub u64);

/// Why a text is not a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateFault {
    /// It does not begin with a whole number.
    NoNumber,
    /// A number stands alone.
    NoUnit,
    /// What follows the number is none of the units.
    UnknownUnit,
    /// More than [`MAX`].
    TooLarge,
    /// Less than [`MIN`].
    TooSmall,
}

impl From<QuantityFault> for RateFault {
    fn from(fault: QuantityFault) -> Self {
        match fault {
            QuantityFault::NoNumber => Self::NoNumber,
            QuantityFault::NoUnit => Self::NoUnit,
            QuantityFault::UnknownUnit => Self::UnknownUnit,
            QuantityFault::TooLarge => Self::TooLarge,
        }
    }
}

impl BitRate {
    /// The bits of a second.
    #[must_use]
    pub const fn bits_per_second(self) -> u64 {
        self.0
    }

    /// Reads a whole number and a decimal unit.
    ///
    /// # Errors
    /// Says which rule `text` breaks.
    pub fn parse(text: &str) -> Result<Self, RateFault> {
        let rate = Self(quantity::parse(text, &UNITS)?);
        if rate > MAX {
            Err(RateFault::TooLarge)
        } else if rate < MIN {
            Err(RateFault::TooSmall)
        } else {
            Ok(rate)
        }
    }
}

/// Shown in the largest unit that divides it, as the manifest would have it.
impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        quantity::show(f, self.0, &UNITS, "bits per second")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn units_are_decimal() {
        assert_eq!(BitRate::parse("64K"), Ok(MIN));
        assert_eq!(BitRate::parse("10M"), Ok(BitRate(10_000_000)));
        assert_eq!(BitRate::parse("10 M"), Ok(BitRate(10_000_000)));
        assert_eq!(BitRate::parse("100G"), Ok(MAX));
    }

    #[test]
    fn each_rule_has_its_fault() {
        use RateFault::{NoNumber, NoUnit, TooLarge, TooSmall, UnknownUnit};
        let cases = [
            ("", NoNumber),
            ("M", NoNumber),
            ("-1M", NoNumber),
            ("10", NoUnit),
            ("10m", UnknownUnit),
            ("10Mbit", UnknownUnit),
            ("1.5G", UnknownUnit),
            ("1T", UnknownUnit),
            ("0M", TooSmall),
            ("63K", TooSmall),
            ("101G", TooLarge),
            ("99999999999999999999K", TooLarge),
            ("18446744073709551615G", TooLarge),
        ];
        for (text, fault) in cases {
            assert_eq!(BitRate::parse(text), Err(fault), "{text:?}");
        }
    }

    #[test]
    fn rates_are_shown_as_they_are_written() {
        for text in ["64K", "1500K", "10M", "1G"] {
            assert_eq!(BitRate::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(BitRate(0).to_string(), "0 bits per second");
        assert_eq!(BitRate(1500).to_string(), "1500 bits per second");
    }
}
