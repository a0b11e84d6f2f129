//! Why the hypervisor's address space refused.

use core::fmt;

use crate::addr::{FrameCount, Hva};
use crate::ledger::{Holder, MapRight, Rights};
use crate::table::TableError;

/// A mapping that was refused, with the right that was not used up.
#[derive(Debug)]
pub struct Rejected {
    /// Why.
    pub error: HostError,
    /// The right, unused.
    pub right: MapRight,
}

/// Why the hypervisor's tables could not be changed. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostError {
    /// The page tables said no.
    Table(TableError<Hva>),
    /// The right is for a VM's page tables.
    WrongHolder(Holder),
    /// The access exceeds the right.
    ExceedsRight {
        /// What was asked for.
        wanted: Rights,
        /// What the right allows.
        allowed: Rights,
    },
    /// The frames are under a VM's hardware key: they are shown in windows only.
    UnderKey(Hva),
    /// A stack needs a page besides its guard.
    StackTooSmall(Hva),
    /// A window is empty or crosses a 2 MiB border.
    BadWindow(Hva),
    /// The window shows something else at the moment.
    WindowBusy(Hva),
    /// The right covers more frames than the window has slots.
    WindowTooSmall {
        /// Slots in the window.
        slots: FrameCount,
        /// Frames to show.
        wanted: FrameCount,
    },
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(error) => write!(f, "hypervisor tables: {error}"),
            Self::WrongHolder(holder) => {
                write!(f, "hypervisor tables: the map right is {holder:?}'s")
            }
            Self::ExceedsRight { wanted, allowed } => {
                write!(
                    f,
                    "hypervisor tables: {wanted:?} asked for, the ledger allows {allowed:?}"
                )
            }
            Self::UnderKey(at) => write!(f, "frames for {at} are under a hardware key"),
            Self::StackTooSmall(at) => write!(f, "stack at {at} has no page above its guard"),
            Self::BadWindow(at) => write!(f, "window at {at} is empty or crosses a 2 MiB border"),
            Self::WindowBusy(at) => write!(f, "window at {at} is open already; close it first"),
            Self::WindowTooSmall { slots, wanted } => {
                write!(f, "a window of {} pages cannot show {}", slots.0, wanted.0)
            }
        }
    }
}

impl core::error::Error for HostError {}

impl From<TableError<Hva>> for HostError {
    fn from(error: TableError<Hva>) -> Self {
        Self::Table(error)
    }
}
