//! The guest's own page walk: what a guest linear address means, as the guest's tables say.
//!
//! Emulating an instruction needs the guest physical address of its operands and of its own bytes. [`walk`]
//! follows the tables as the processor does in every paging mode and either finds a [`Translation`] or says which
//! exception the guest gets ([`WalkError`]). The tables are the guest's: anything may be in them, so
//! each walk reads at most five entries and trusts none. Intel SDM vol. 3A, chapter "Paging".
//!
//! Not modelled: accessed and dirty flags are not set; PAE top-level entries come from memory, not from the VMCS;
//! protection keys and shadow stacks do not exist for guests of Bulkhead (CPUID hides them, so that CR4 refuses them).
//! Neighbours: the exit handlers call this, the shell implements [`GuestPhys`].

mod mode;
#[cfg(test)]
mod tests;

use core::fmt;

use bitflags::bitflags;

use crate::addr::{Gpa, Gva};

/// Guest physical memory.
pub trait GuestPhys {
    /// The 8 bytes at `gpa`, a multiple of 8, or `None` where the guest has no memory.
    fn read_u64(&mut self, gpa: Gpa) -> Option<u64>;
}

/// The guest registers that govern paging, as they are in its VMCS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paging {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// The guest's MAXPHYADDR.
    pub physical_bits: u32,
    /// Whether the guest's CPUID offers 1 GiB pages.
    pub gigabyte_pages: bool,
}

bitflags! {
    /// Bits that entries of all formats share; NX only where entries have 64 bits.
    #[derive(Clone, Copy)]
    struct Bits: u64 {
        const PRESENT = 1 << 0;
        const WRITE = 1 << 1;
        const USER = 1 << 2;
        const LARGE = 1 << 7;
        const NX = 1 << 63;
    }

    /// The error code of a page fault (Intel SDM vol. 3A, "Page-Fault Exceptions").
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct PageFaultCode: u32 {
        /// The page is there, but the access is not allowed.
        const PROTECTION = 1 << 0;
        /// The access was a write.
        const WRITE = 1 << 1;
        /// The access was a user-mode access.
        const USER = 1 << 2;
        /// A reserved bit is set in an entry.
        const RESERVED = 1 << 3;
        /// The access was an instruction fetch.
        const FETCH = 1 << 4;
        /// A protection key did not allow the access, whatever the tables say.
        const PROTECTION_KEY = 1 << 5;
    }
}

/// What is done to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessKind {
    /// A data read.
    Read,
    /// A data write.
    Write,
    /// An instruction fetch.
    Fetch,
}

/// An access and with whose authority it is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// What is done.
    pub kind: AccessKind,
    /// Whether at CPL 3.
    pub user: bool,
    /// Whether to a system structure (descriptor tables, TSS): then a supervisor access at any CPL.
    pub implicit: bool,
}

/// Where a linear address leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The guest physical address.
    pub gpa: Gpa,
    /// The size in bytes of the page that holds it.
    pub page_size: u64,
}

/// Why a linear address leads nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkError {
    /// The guest gets #PF with this code, and the address in CR2.
    PageFault {
        /// The address.
        gva: Gva,
        /// The error code.
        code: PageFaultCode,
    },
    /// The address has more bits than the paging mode translates: #GP (or #SS) in the guest.
    NotCanonical(Gva),
    /// A paging structure lies where the guest has no memory.
    NoMemory(Gpa),
}

impl fmt::Display for WalkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PageFault { gva, code } => {
                write!(
                    f,
                    "page fault at guest address {gva}, error code {:#x}",
                    code.bits()
                )
            }
            Self::NotCanonical(gva) => write!(f, "guest address {gva} is not canonical"),
            Self::NoMemory(gpa) => write!(f, "guest page tables lie outside its memory, at {gpa}"),
        }
    }
}

impl core::error::Error for WalkError {}

/// Translates `gva` for `access`.
///
/// # Errors
/// [`WalkError`]: what the processor would raise, or that the tables lie outside guest memory.
pub fn walk(
    memory: &mut impl GuestPhys,
    paging: &Paging,
    gva: Gva,
    access: Access,
) -> Result<Translation, WalkError> {
    let mode = paging.mode();
    if !mode.is_canonical(gva) {
        return Err(WalkError::NotCanonical(gva));
    }
    let Some(mut level) = mode.levels() else {
        return Ok(Translation {
            gpa: Gpa(gva.0),
            page_size: crate::addr::FRAME_SIZE,
        });
    };
    let fault = |cause| WalkError::PageFault {
        gva,
        code: paging.fault_code(cause, access),
    };
    let mut table = mode.root(paging);
    // The rights of all levels together: user and write need every level's leave, NX any level's veto.
    let mut rights = Bits::USER | Bits::WRITE;
    loop {
        let entry = mode.read(memory, table, gva, level)?;
        let bits = Bits::from_bits_truncate(entry);
        if !bits.contains(Bits::PRESENT) {
            return Err(fault(PageFaultCode::empty()));
        }
        let leaf = level == 1 || (bits.contains(Bits::LARGE) && mode.has_large(level, paging));
        if entry & mode.reserved(level, leaf, paging) != 0 {
            return Err(fault(PageFaultCode::PROTECTION | PageFaultCode::RESERVED));
        }
        if mode.has_rights(level) {
            let vetoes = Bits::NX & (rights | bits);
            rights = (rights & bits) | vetoes;
        }
        if leaf {
            if !paging.allows(rights, access) {
                return Err(fault(PageFaultCode::PROTECTION));
            }
            let page_size = 1 << mode.shift(level);
            let gpa = mode.frame(entry, level) | (gva.0 & (page_size - 1));
            return Ok(Translation {
                gpa: Gpa(gpa),
                page_size,
            });
        }
        table = entry & mode.table_address();
        level -= 1;
    }
}
