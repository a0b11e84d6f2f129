//! Why a page cannot be made readable, or sealed.

use core::fmt;

use crate::addr::{Frame, Gpa};
use crate::ept::EptError;
use crate::ledger::LedgerError;

/// Why a page cannot be made readable, or sealed; the VM cannot go on. No other VM is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// There is no such page.
    NoPage,
    /// What lies in the frame is not what was sealed there last.
    Tampered {
        /// Where the VM has the page.
        gpa: Gpa,
        /// Where it lies.
        frame: Frame,
    },
    /// The frame is neither clear nor sealed.
    NotClear(Frame),
    /// The ledger refused.
    Ledger(LedgerError),
    /// The view refused.
    View(EptError),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPage => f.write_str("the VM has no such page"),
            Self::Tampered { gpa, frame } => write!(
                f,
                "the sealed page at {gpa}, in frame {}, is not what was sealed there: something wrote to memory that nobody may \
                 write to, or memory fails",
                frame.start()
            ),
            Self::NotClear(frame) => {
                write!(f, "frame {} is neither clear nor sealed", frame.start())
            }
            Self::Ledger(error) => error.fmt(f),
            Self::View(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for Refusal {}

impl From<LedgerError> for Refusal {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error)
    }
}

impl From<EptError> for Refusal {
    fn from(error: EptError) -> Self {
        Self::View(error)
    }
}
