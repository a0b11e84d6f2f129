//! The hypercall table: numbers, arguments, results and errors.
//!
//! A guest executes VMCALL with the number in RAX and arguments in RDI, RSI, RDX, R10, R8, R9; the result
//! comes back in RAX and no other register changes. Errors are small negative numbers. `docs/hypercalls.md` is
//! the same table for readers; a test keeps both alike.

use core::fmt;

/// Version of this table, what [`Hypercall::Version`] returns: major in bits 31:16, minor in bits 15:0.
pub const ABI_VERSION: u32 = 1 << 16;

bitflags::bitflags! {
    /// What [`Hypercall::Features`] returns: optional groups of hypercalls this build offers.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Features: u64 {
        /// The version and feature queries themselves.
        const BASE = 1 << 0;
    }
}

/// The features of this build.
pub const FEATURES: Features = Features::BASE;

/// A known hypercall number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Hypercall {
    /// Returns [`ABI_VERSION`].
    Version = 0,
    /// Returns [`FEATURES`].
    Features = 1,
}

impl Hypercall {
    /// Every hypercall, by number.
    pub const ALL: [Self; 2] = [Self::Version, Self::Features];

    /// Its name in documents and log lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Features => "features",
        }
    }
}

impl TryFrom<u64> for Hypercall {
    type Error = HypercallError;

    #[inline]
    fn try_from(number: u64) -> Result<Self, HypercallError> {
        match number {
            0 => Ok(Self::Version),
            1 => Ok(Self::Features),
            _ => Err(HypercallError::UnknownNumber),
        }
    }
}

/// Why a hypercall was refused; the guest sees its code in RAX.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i64)]
pub enum HypercallError {
    /// No hypercall has that number.
    UnknownNumber = -1,
    /// The caller runs at a privilege level other than 0.
    NotPermitted = -2,
}

impl HypercallError {
    /// Every error, by descending code.
    pub const ALL: [Self; 2] = [Self::UnknownNumber, Self::NotPermitted];

    /// The value a guest finds in RAX.
    #[inline]
    #[must_use]
    pub const fn code(self) -> u64 {
        self as i64 as u64
    }

    /// Its name in documents and log lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnknownNumber => "unknown-number",
            Self::NotPermitted => "not-permitted",
        }
    }
}

impl fmt::Display for HypercallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownNumber => {
                f.write_str("no hypercall has the number in RAX; ask `features` what there is")
            }
            Self::NotPermitted => {
                f.write_str("hypercalls are for privilege level 0; call from the guest's kernel")
            }
        }
    }
}

impl core::error::Error for HypercallError {}

/// Decides one VMCALL made at privilege level `cpl` with `number` in RAX; the answer is RAX's new value.
#[inline]
#[must_use]
pub fn call(number: u64, cpl: u8) -> u64 {
    match dispatch(number, cpl) {
        Ok(result) => result,
        Err(error) => error.code(),
    }
}

#[inline]
fn dispatch(number: u64, cpl: u8) -> Result<u64, HypercallError> {
    if cpl != 0 {
        return Err(HypercallError::NotPermitted);
    }
    match Hypercall::try_from(number)? {
        Hypercall::Version => Ok(u64::from(ABI_VERSION)),
        Hypercall::Features => Ok(FEATURES.bits()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../../docs/hypercalls.md");

    fn rows(section: &str) -> Vec<(i64, String)> {
        let body = DOCUMENT
            .split(&format!("## {section}\n"))
            .nth(1)
            .expect("section is there");
        body.split("\n## ")
            .next()
            .unwrap()
            .lines()
            .filter_map(|line| {
                let mut cells = line.split('|').map(str::trim).skip(1);
                let number = cells.next()?.parse().ok()?;
                Some((number, cells.next()?.trim_matches('`').to_owned()))
            })
            .collect()
    }

    #[test]
    fn document_lists_exactly_the_known_numbers() {
        let known: Vec<_> = Hypercall::ALL
            .iter()
            .map(|call| (*call as u64 as i64, call.name().to_owned()))
            .collect();
        assert_eq!(rows("Numbers"), known);
    }

    #[test]
    fn document_lists_exactly_the_known_errors() {
        let known: Vec<_> = HypercallError::ALL
            .iter()
            .map(|error| (error.code() as i64, error.name().to_owned()))
            .collect();
        assert_eq!(rows("Errors"), known);
    }

    #[test]
    fn numbers_round_trip() {
        for call in Hypercall::ALL {
            assert_eq!(Hypercall::try_from(call as u64), Ok(call));
        }
    }

    #[test]
    fn wild_numbers_are_refused() {
        for number in [2, 9, 0x4000_0000, u64::from(u32::MAX), 1 << 32, u64::MAX] {
            assert_eq!(call(number, 0), HypercallError::UnknownNumber.code());
        }
    }

    #[test]
    fn only_privilege_level_zero_may_call() {
        assert_eq!(call(0, 0), 0x1_0000);
        for cpl in 1..=3 {
            assert_eq!(call(0, cpl), HypercallError::NotPermitted.code());
        }
    }
}
