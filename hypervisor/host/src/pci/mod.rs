//! The host's PCI: what is on the machine's buses, what can be kept apart, and how it is silenced and reset.
//!
//! [`enumerate()`] walks the buses through the shell's [`ConfigAccess`] into an [`Inventory`]; [`Groups`] says which
//! functions only go to a VM together; [`quiesce`] silences them, [`reset`] cleans one before its next VM. Which VM gets
//! what is decided by the manifest's `Plan::assign`; what a VM sees of it, by the core's `passthrough::virtual_config`. The
//! emulated bus of a VM is the core's `device::pci`.
//!
//! | module | what it holds |
//! |---|---|
//! | [`address`], [`identity`] | who a function is: its place, its vendor, device and class |
//! | [`access`], [`ecam`], [`register`] | reaching configuration space; where it lies in memory; its header's registers |
//! | [`bar`], [`capability`] | base addresses with their sizes; the capability lists |
//! | [`inventory`], [`mod@enumerate`] | every function of the machine, typed; finding them |
//! | [`groups`] | which functions reach each other behind the IOMMU's back |
//! | [`quiesce`], [`reset`], [`reset_run`] | bus mastering off in order; how a function is reset; doing it |

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

#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
