//! The hypercall table: numbers, arguments, results and errors.
//!
//! A guest executes VMCALL with the number in RAX and arguments in RDI, RSI, RDX, R10, R8, R9; the result
//! comes back in RAX and no other register changes. Errors are small negative numbers. `docs/hypercalls.md` is
//! the same table for readers; a test keeps both alike.

use core::fmt;

/// Version of this table, what [`Hypercall::Version`] returns: major in bits 31:16, minor in bits 15:0.
pub const ABI_VERSION: u32 = 1 << 16 | 1;

bitflags::bitflags! {
    /// What [`Hypercall::Features`] returns: optional groups of hypercalls this build offers.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Features: u64 {
        /// The version and feature queries themselves.
        const BASE = 1 << 0;
        /// Private pages: user code keeps some of its memory from its kernel.
        const PRIVATE = 1 << 1;
    }
}

/// The features of this build.
pub const FEATURES: Features = Features::BASE.union(Features::PRIVATE);

/// A known hypercall number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Hypercall {
    /// Returns [`ABI_VERSION`].
    Version = 0,
    /// Returns [`FEATURES`].
    Features = 1,
    /// Has pages of the caller's be private.
    Conceal = 2,
    /// Gives them back to the kernel as they are.
    Reveal = 3,
}

impl Hypercall {
    /// Every hypercall, by number.
    pub const ALL: [Self; 4] = [Self::Version, Self::Features, Self::Conceal, Self::Reveal];

    /// Whether user code makes it, and nobody else; the others are the kernel's.
    #[must_use]
    pub const fn is_user_codes(self) -> bool {
        matches!(self, Self::Conceal | Self::Reveal)
    }

    /// Its name in documents and log lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Features => "features",
            Self::Conceal => "conceal",
            Self::Reveal => "reveal",
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
            2 => Ok(Self::Conceal),
            3 => Ok(Self::Reveal),
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
    /// The caller runs at a privilege level that the hypercall is not for.
    NotPermitted = -2,
    /// The VM has nothing that the hypercall could be about.
    Unsupported = -3,
    /// An argument is not what it has to be.
    BadArgument = -4,
    /// There are as many as the VM may have.
    TooMany = -5,
}

impl HypercallError {
    /// Every error, by descending code.
    pub const ALL: [Self; 5] = [
        Self::UnknownNumber,
        Self::NotPermitted,
        Self::Unsupported,
        Self::BadArgument,
        Self::TooMany,
    ];

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
            Self::Unsupported => "unsupported",
            Self::BadArgument => "bad-argument",
            Self::TooMany => "too-many",
        }
    }
}

impl fmt::Display for HypercallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownNumber => {
                f.write_str("no hypercall has the number in RAX; ask `features` what there is")
            }
            Self::NotPermitted => f.write_str(
                "the hypercall is for another privilege level; see the table who may make it",
            ),
            Self::Unsupported => f.write_str("the VM has no private pages; see its manifest"),
            Self::BadArgument => {
                f.write_str("the pages are not the caller's own, writable and in memory")
            }
            Self::TooMany => f.write_str(
                "the VM has as many as its manifest allows, or no table is left for more",
            ),
        }
    }
}

impl core::error::Error for HypercallError {}

/// What comes of a VMCALL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// RAX's new value.
    Known(u64),
    /// One of the private pages' hypercalls, which takes the VM to answer.
    OfVm(Hypercall),
}

/// Decides one VMCALL made at privilege level `cpl` with `number` in RAX.
#[must_use]
pub fn call(number: u64, cpl: u8) -> Answer {
    match (cpl, Hypercall::try_from(number)) {
        (0, _) => Answer::Known(kernel_call(number)),
        (3, Ok(call)) if call.is_user_codes() => Answer::OfVm(call),
        (3, Err(error)) => Answer::Known(error.code()),
        _ => Answer::Known(HypercallError::NotPermitted.code()),
    }
}

/// The same of one made at privilege level 0: RAX's new value.
#[inline]
#[must_use]
pub fn kernel_call(number: u64) -> u64 {
    match Hypercall::try_from(number) {
        Ok(Hypercall::Version) => u64::from(ABI_VERSION),
        Ok(Hypercall::Features) => FEATURES.bits(),
        Ok(Hypercall::Conceal | Hypercall::Reveal) => HypercallError::NotPermitted.code(),
        Err(error) => error.code(),
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
        let unknown = Answer::Known(HypercallError::UnknownNumber.code());
        for number in [4, 9, 0x4000_0000, u64::from(u32::MAX), 1 << 32, u64::MAX] {
            assert_eq!((call(number, 0), call(number, 3)), (unknown, unknown));
        }
    }

    #[test]
    fn each_is_for_one_privilege_level() {
        let refused = Answer::Known(HypercallError::NotPermitted.code());
        assert_eq!(call(0, 0), Answer::Known(0x1_0001));
        for cpl in 1..=3 {
            assert_eq!((call(0, cpl), call(1, cpl)), (refused, refused));
        }
        assert_eq!(call(2, 3), Answer::OfVm(Hypercall::Conceal));
        for cpl in 0..3 {
            assert_eq!((call(2, cpl), call(3, cpl)), (refused, refused));
        }
    }
}
