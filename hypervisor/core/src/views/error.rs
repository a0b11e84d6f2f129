//! Why views could not be changed.

use core::fmt;

use crate::addr::Gpa;
use crate::ept::{EptError, EptPerms};
use crate::ledger::MapRight;
use crate::table::TableError;

use super::ViewId;
use super::list::{ListId, Slot};

/// Why views could not be changed. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ViewError {
    /// The page tables or the right said no.
    Ept(EptError),
    /// There is no such view any more.
    NoView(ViewId),
    /// The base view shows what is mapped: it has no overrides, and goes last.
    IsBase,
    /// The permissions tell user mode from supervisor mode, which takes mode-based execute control.
    NoModeBasedExecute(EptPerms),
    /// There were as many views as numbers for them.
    TooManyViews,
    /// There is no such list.
    NoList(ListId),
    /// A view is at this place of the list already.
    SlotTaken(Slot),
    /// The view is in a list.
    Listed(ListId, Slot),
}

impl fmt::Display for ViewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ept(error) => error.fmt(f),
            Self::NoView(view) => write!(f, "view {} is gone", view.0),
            Self::IsBase => f.write_str("the base view can neither differ from itself nor go"),
            Self::NoModeBasedExecute(perms) => write!(
                f,
                "{perms:?} pages need a processor with mode-based execute control"
            ),
            Self::TooManyViews => f.write_str("the VM made too many views; start it anew"),
            Self::NoList(list) => write!(f, "there is no EPTP list {}", list.0),
            Self::SlotTaken(slot) => {
                write!(
                    f,
                    "EPTP list entry {} is in use; hide it first",
                    slot.index()
                )
            }
            Self::Listed(list, slot) => write!(
                f,
                "the view is entry {} of EPTP list {}; hide it there first",
                slot.index(),
                list.0
            ),
        }
    }
}

impl core::error::Error for ViewError {}

impl From<EptError> for ViewError {
    fn from(error: EptError) -> Self {
        Self::Ept(error)
    }
}

impl From<TableError<Gpa>> for ViewError {
    fn from(error: TableError<Gpa>) -> Self {
        Self::Ept(EptError::Table(error))
    }
}

/// A remapping that was refused, with the right that was not used up.
#[derive(Debug)]
pub struct RemapRejected {
    /// Why.
    pub error: ViewError,
    /// The right, unused.
    pub right: MapRight,
}
