//! Why a guest's kernel cannot be kept from its user code.

use core::fmt;

use crate::addr::{Gpa, Gva};
use crate::views::ViewError;

/// Why a guest's kernel half cannot be hidden.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SplitError {
    /// The views could not be changed.
    View(ViewError),
    /// This table would be one too many.
    TooManyTables(Gpa),
    /// The processor needs a page there while user code runs, and the kernel half has none.
    NotKernels(Gva),
    /// The pages that the processor needs lie in more places than there are tables for.
    NoPage,
    /// There is no such vCPU.
    NoVcpu,
}

impl From<ViewError> for SplitError {
    fn from(error: ViewError) -> Self {
        Self::View(error)
    }
}

impl fmt::Display for SplitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::View(error) => error.fmt(f),
            Self::TooManyTables(gpa) => {
                write!(f, "the page table at {gpa} is one more than are followed")
            }
            Self::NotKernels(gva) => write!(
                f,
                "a descriptor table or task-state segment is at {gva}, which is not in the kernel's half"
            ),
            Self::NoPage => f.write_str("descriptor tables lie in too many places"),
            Self::NoVcpu => f.write_str("the VM has no such vCPU"),
        }
    }
}

impl core::error::Error for SplitError {}
