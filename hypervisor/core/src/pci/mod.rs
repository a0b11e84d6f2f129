//! The host's PCI: what is on the machine's buses, what can be kept apart, and what a VM sees of what it is given.
//!
//! [`enumerate()`] walks the buses through the shell's [`ConfigAccess`] into an [`Inventory`]; [`Groups`] says which
//! functions only go to a VM together; [`quiesce`] silences them, [`reset`] cleans one before its next VM;
//! [`VirtualConfig`] is a passed-through function's configuration space in a VM. The emulated bus of a VM is
//! [`crate::device::pci`]. Which VM gets what is decided by [`Plan::assign`](crate::manifest::Plan::assign).
//!
//! | module | what it holds |
//! |---|---|
//! | [`address`], [`identity`] | who a function is: its place, its vendor, device and class |
//! | [`access`], [`ecam`], [`register`] | reaching configuration space; where it lies in memory; its header's registers |
//! | [`bar`], [`capability`] | base addresses with their sizes; the capability lists |
//! | [`inventory`], [`mod@enumerate`] | every function of the machine, typed; finding them |
//! | [`groups`] | which functions reach each other behind the IOMMU's back |
//! | [`quiesce`], [`reset`], [`reset_run`] | bus mastering off in order; how a function is reset; doing it |
//! | [`virtual_config`] | what a guest sees of a passed-through function |

pub mod access;
pub mod address;
pub mod bar;
pub mod capability;
pub mod ecam;
pub mod enumerate;
pub mod groups;
pub mod identity;
pub mod inventory;
pub mod quiesce;
pub mod register;
pub mod reset;
pub mod reset_run;
pub mod virtual_config;

pub use access::{ConfigAccess, Extent, Width};
pub use address::{Address, AddressFault};
pub use bar::{Bar, BarKind};
pub use ecam::EcamWindow;
pub use enumerate::{HostBridge, enumerate};
pub use groups::Groups;
pub use identity::{Class, ClassPattern, DeviceId};
pub use inventory::{Function, Header, Inventory, Warning};
pub use reset::{Reset, ResetRefusal};
pub use reset_run::ResetRun;
pub use virtual_config::VirtualConfig;

#[cfg(test)]
pub(crate) mod tests;
