//! What second-level tables look like that a unit can walk, and the numbers of domains.
//!
//! [`TreeShape`] is the part of [`super::capability`] that several units behind which one VM has devices must agree on:
//! they [`TreeShape::meet`], and [`super::domain`] builds the tree by what is left.

use bitflags::bitflags;

use crate::ledger::VmId;
use crate::table::PageSize;

use super::capability::CapabilityError;

bitflags! {
    /// The depths of second-level tables that a unit walks (SAGAW).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Depths: u8 {
        /// Three levels, 39-bit addresses.
        const THREE = 1 << 1;
        /// Four levels, 48-bit addresses.
        const FOUR = 1 << 2;
        /// Five levels, 57-bit addresses.
        const FIVE = 1 << 3;
    }
}

/// What trees of second-level tables look like that a unit, or each of several units, can walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TreeShape {
    /// The depths in question.
    pub depths: Depths,
    /// The widest address in bits.
    pub address_bits: u8,
    /// The largest page.
    pub largest_page: PageSize,
    /// Whether leaves have a snoop bit.
    pub snoop: bool,
    /// Whether table walks see the processors' caches; otherwise table memory is written back line by line.
    pub coherent: bool,
    /// Whether new mappings need a flush too (caching mode, or a write buffer).
    pub flush_after_map: bool,
    /// The largest mask of page-selective invalidation.
    pub page_selective: Option<u8>,
    /// How many domain ids there are.
    pub domains: u32,
}

impl TreeShape {
    /// The shape that units of either kind can walk.
    #[must_use]
    pub fn meet(self, other: Self) -> Self {
        Self {
            depths: self.depths & other.depths,
            address_bits: self.address_bits.min(other.address_bits),
            largest_page: self.largest_page.min(other.largest_page),
            snoop: self.snoop && other.snoop,
            coherent: self.coherent && other.coherent,
            flush_after_map: self.flush_after_map || other.flush_after_map,
            page_selective: self
                .page_selective
                .zip(other.page_selective)
                .map(|(one, two)| one.min(two)),
            domains: self.domains.min(other.domains),
        }
    }

    /// The id of a VM's domain. Id 0 is never used: units in caching mode keep it for absent entries.
    ///
    /// # Errors
    /// [`CapabilityError::TooFewDomains`].
    pub fn domain_of(&self, vm: VmId) -> Result<DomainId, CapabilityError> {
        vm.0.checked_add(1)
            .filter(|id| u32::from(*id) < self.domains)
            .map(DomainId)
            .ok_or(CapabilityError::TooFewDomains {
                vm,
                domains: self.domains,
            })
    }
}

/// The number a unit tags a domain's cached translations with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DomainId(u16);

impl DomainId {
    /// The number.
    #[must_use]
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// A domain for tests that need no VM.
    #[cfg(test)]
    pub(super) const fn for_test(raw: u16) -> Self {
        Self(raw)
    }
}
