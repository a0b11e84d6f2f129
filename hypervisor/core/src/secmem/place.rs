//! What a sealed page is bound to, and what is kept of it.

use crate::addr::Gpa;
use crate::ledger::VmId;

/// Where a page is sealed, and for which time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The VM whose page it is.
    pub vm: VmId,
    /// Where the VM has it.
    pub gpa: Gpa,
    /// Counts how often the page was sealed.
    pub version: u64,
}

impl Place {
    /// A tweak that no other place in the VM has.
    #[must_use]
    pub fn tweak(self) -> u128 {
        u128::from(self.version) << 64 | u128::from(self.gpa.as_u64())
    }
}

/// What is kept of a sealed page, apart from it: made by a MAC over ciphertext and [`Place`]. Its one secret use is to be compared,
/// which is the implementation's, in constant time.
#[derive(Clone, Copy, Debug)]
pub struct Tag([u8; 16]);

impl Tag {
    /// The tag of a page that was never sealed.
    pub const NONE: Self = Self([0; 16]);

    /// A tag that was kept as bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes to keep.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}
