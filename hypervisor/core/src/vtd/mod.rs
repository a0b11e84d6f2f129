//! VT-d: what devices reach of memory, and which interrupts they may raise.
//!
//! | module | what it decides |
//! |---|---|
//! | [`dmar`] | Which remapping units there are and which functions are behind each, from the firmware's DMAR table; [`SourceId`], the names of those who send requests. |
//! | [`capability`], [`shape`] | What is used of a unit, and which trees it walks. |
//! | [`mod@unit`] | Bringing a unit up, in the one order that never leaves memory open. |
//! | [`domain`], [`second_level`] | What a VM's devices reach. |
//! | [`context`] | Which device is in which domain. |
//! | [`interrupt`] | Which interrupts a device raises. |
//! | [`invalidate`], [`queue`], [`fallback`] | Telling units what changed, by the batch; what was taken away comes back only once they have forgotten it. |
//! | [`fault`], [`reason`], [`flood`] | What devices were kept from, and how much of that is told. |
//!
//! The shell has the registers ([`registers::UnitRegisters`]) and the memory ([`queue::QueueMemory`], [`crate::table::TableMemory`]).
//! What drives it is the shell's `iommu`; what a VM has of a device is [`crate::passthrough`].
//!
//! Manual: "Intel Virtualization Technology for Directed I/O, Architecture Specification" (cited as "VT-d
//! specification").

pub mod capability;
pub mod context;
pub mod domain;
pub mod fallback;
pub mod fault;
pub mod flood;
pub mod interrupt;
pub mod invalidate;
mod pending;
pub mod queue;
pub mod reason;
pub mod registers;
pub mod second_level;
pub mod shape;
#[cfg(test)]
mod tests;
pub mod unit;

pub use bulkhead_host::dmar::{self, SourceId};
