//! The machine underneath: what its firmware and its buses say of it, read from bytes that nobody vouches for.
//!
//! This decides and has no effects, like `bulkhead-core`, which hands on these modules under the same names. It runs once a
//! boot, or once a VM's start, and is a crate of its own to be made small, not fast. The ways into it are never inlined: where the shell has them, they would
//! be made fast.
//!
//! | module | what it holds |
//! |---|---|
//! | [`addr`], [`order`] | what everything else is written in: addresses and sizes; sorting in little code |
//! | [`bootfile`] | which file the firmware started |
//! | [`hostacpi`] | what the ACPI tables say |
//! | [`dmar`] | which remapping units there are, and what is behind each |
//! | [`pci`] | which functions there are, which of them can be kept apart, how they are silenced and reset |
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

extern crate alloc;

pub mod addr;
pub mod bootfile;
pub mod dmar;
pub mod hostacpi;
pub mod order;
pub mod pci;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
