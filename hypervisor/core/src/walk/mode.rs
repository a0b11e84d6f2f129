//! The five paging modes: how each lays out its entries, and what the control registers make of rights.

use bitflags::bitflags;

use crate::addr::{Gpa, Gva};

use super::{Access, AccessKind, Bits, GuestPhys, PageFaultCode, Paging, WalkError};

bitflags! {
    /// CR0 bits that govern paging.
    #[derive(Clone, Copy)]
    struct Cr0: u64 {
        const WP = 1 << 16;
        const PG = 1 << 31;
    }

    /// CR4 bits that govern paging.
    #[derive(Clone, Copy)]
    struct Cr4: u64 {
        const PSE = 1 << 4;
        const PAE = 1 << 5;
        const LA57 = 1 << 12;
        const SMEP = 1 << 20;
        const SMAP = 1 << 21;
    }

    /// IA32_EFER bits that govern paging.
    #[derive(Clone, Copy)]
    struct Efer: u64 {
        const LMA = 1 << 10;
        const NXE = 1 << 11;
    }
}

/// RFLAGS.AC, which suspends SMAP.
const RFLAGS_AC: u64 = 1 << 18;

/// The paging modes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    Off,
    Bits32,
    Pae,
    Level4,
    Level5,
}

/// The address field of a 64-bit entry, before MAXPHYADDR narrows it.
const ADDRESS_64: u64 = 0x000f_ffff_ffff_f000;
/// The address field of a 32-bit entry.
const ADDRESS_32: u64 = 0xffff_f000;

impl Mode {
    pub(super) const fn levels(self) -> Option<u32> {
        match self {
            Self::Off => None,
            Self::Bits32 => Some(2),
            Self::Pae => Some(3),
            Self::Level4 => Some(4),
            Self::Level5 => Some(5),
        }
    }

    pub(super) const fn is_canonical(self, gva: Gva) -> bool {
        let width = match self {
            Self::Off | Self::Bits32 | Self::Pae => return gva.0 >> 32 == 0,
            Self::Level4 => 48,
            Self::Level5 => 57,
        };
        let upper = (gva.0 as i64) >> (width - 1);
        upper == 0 || upper == -1
    }

    pub(super) const fn root(self, paging: &Paging) -> u64 {
        match self {
            Self::Off | Self::Bits32 => paging.cr3 & ADDRESS_32,
            // The page-directory-pointer table is 32 bytes, aligned to its size.
            Self::Pae => paging.cr3 & 0xffff_ffe0,
            Self::Level4 | Self::Level5 => paging.cr3 & ADDRESS_64 & paging.physical_mask(),
        }
    }

    /// Entries are 4 bytes under 32-bit paging, else 8.
    const fn is_wide(self) -> bool {
        !matches!(self, Self::Bits32)
    }

    const fn index_bits(self) -> u32 {
        if self.is_wide() { 9 } else { 10 }
    }

    /// Bits of the linear address below what a table at `level` indexes.
    pub(super) const fn shift(self, level: u32) -> u32 {
        12 + self.index_bits() * (level - 1)
    }

    pub(super) const fn table_address(self) -> u64 {
        if self.is_wide() {
            ADDRESS_64
        } else {
            ADDRESS_32
        }
    }

    pub(super) fn read(
        self,
        memory: &mut impl GuestPhys,
        table: u64,
        gva: Gva,
        level: u32,
    ) -> Result<u64, WalkError> {
        let index = (gva.0 >> self.shift(level)) & ((1 << self.index_bits()) - 1);
        let at = Gpa(table + index * if self.is_wide() { 8 } else { 4 });
        let wide = memory
            .read_u64(at.align_down(8))
            .ok_or(WalkError::NoMemory(at))?;
        Ok(match (self.is_wide(), at.is_aligned(8)) {
            (true, _) => wide,
            (false, true) => wide & 0xffff_ffff,
            (false, false) => wide >> 32,
        })
    }

    /// Whether entries at `level` can map a large page. Where not, bit 7 is reserved or ignored.
    pub(super) const fn has_large(self, level: u32, paging: &Paging) -> bool {
        match self {
            Self::Off => false,
            Self::Bits32 => level == 2 && paging.cr4().contains(Cr4::PSE),
            Self::Pae => level == 2,
            Self::Level4 | Self::Level5 => level == 2 || (level == 3 && paging.gigabyte_pages),
        }
    }

    /// Whether entries at `level` have write, user and execute bits: all but PAE's top level.
    pub(super) const fn has_rights(self, level: u32) -> bool {
        !(matches!(self, Self::Pae) && level == 3)
    }

    /// The bits that must be clear in an entry.
    pub(super) const fn reserved(self, level: u32, leaf: bool, paging: &Paging) -> u64 {
        let large = leaf && level > 1;
        if !self.is_wide() {
            // A 4 MiB page keeps address bits 32 up in bits 13 to 20; bit 21 is always reserved.
            let above = paging.physical_mask() >> 32 & 0xff;
            return if large {
                1 << 21 | (!above & 0xff) << 13
            } else {
                0
            };
        }
        let mut reserved = ADDRESS_64 & !paging.physical_mask();
        if !paging.efer().contains(Efer::NXE) {
            reserved |= Bits::NX.bits();
        }
        if large {
            // Below the page's size, all address bits but the PAT bit at 12.
            reserved |= ((1 << self.shift(level)) - 1) & ADDRESS_64 & !(1 << 12);
        } else if level > 2 && !matches!(self, Self::Pae) {
            reserved |= Bits::LARGE.bits();
        }
        if matches!(self, Self::Pae) {
            // No available bits above the address, and hardly any in the top level.
            reserved |= 0x7ff << 52;
            if level == 3 {
                reserved |= 0x1e6 | Bits::NX.bits();
            }
        }
        reserved
    }

    /// The physical address of the page that a leaf maps.
    pub(super) const fn frame(self, entry: u64, level: u32) -> u64 {
        let within = (1 << self.shift(level)) - 1;
        if self.is_wide() {
            return entry & ADDRESS_64 & !within;
        }
        let high = if level == 2 {
            (entry >> 13 & 0xff) << 32
        } else {
            0
        };
        entry & ADDRESS_32 & !within | high
    }
}

impl Paging {
    pub(super) const fn mode(&self) -> Mode {
        if !Cr0::from_bits_truncate(self.cr0).contains(Cr0::PG) {
            Mode::Off
        } else if self.efer().contains(Efer::LMA) {
            if self.cr4().contains(Cr4::LA57) {
                Mode::Level5
            } else {
                Mode::Level4
            }
        } else if self.cr4().contains(Cr4::PAE) {
            Mode::Pae
        } else {
            Mode::Bits32
        }
    }

    const fn cr4(&self) -> Cr4 {
        Cr4::from_bits_truncate(self.cr4)
    }

    const fn efer(&self) -> Efer {
        Efer::from_bits_truncate(self.efer)
    }

    /// The addresses that MAXPHYADDR allows; widths no processor has count as 52.
    pub(super) const fn physical_mask(&self) -> u64 {
        let bits = if self.physical_bits < 32 || self.physical_bits > 52 {
            52
        } else {
            self.physical_bits
        };
        (1 << bits) - 1
    }

    /// Whether fetches are told from reads at all: then the error code says so.
    const fn tells_fetches(&self) -> bool {
        let paged_wide = !matches!(self.mode(), Mode::Off | Mode::Bits32);
        self.cr4().contains(Cr4::SMEP) || (paged_wide && self.efer().contains(Efer::NXE))
    }

    pub(super) const fn fault_code(&self, cause: PageFaultCode, access: Access) -> PageFaultCode {
        let mut code = cause;
        if matches!(access.kind, AccessKind::Write) {
            code = code.union(PageFaultCode::WRITE);
        }
        if access.is_user() {
            code = code.union(PageFaultCode::USER);
        }
        if matches!(access.kind, AccessKind::Fetch) && self.tells_fetches() {
            code = code.union(PageFaultCode::FETCH);
        }
        code
    }

    /// Whether a page with the combined `rights` may be accessed so (Intel SDM vol. 3A,
    /// "Determination of Access Rights").
    pub(super) const fn allows(&self, rights: Bits, access: Access) -> bool {
        let page_user = rights.contains(Bits::USER);
        let writable = rights.contains(Bits::WRITE);
        let never_executed = rights.contains(Bits::NX);
        if access.is_user() {
            return page_user
                && match access.kind {
                    AccessKind::Read => true,
                    AccessKind::Write => writable,
                    AccessKind::Fetch => !never_executed,
                };
        }
        let override_smap = !access.implicit && self.rflags & RFLAGS_AC != 0;
        let data = !page_user || !self.cr4().contains(Cr4::SMAP) || override_smap;
        match access.kind {
            AccessKind::Read => data,
            AccessKind::Write => {
                let protected = Cr0::from_bits_truncate(self.cr0).contains(Cr0::WP);
                data && (writable || !protected)
            }
            AccessKind::Fetch => {
                let smep = page_user && self.cr4().contains(Cr4::SMEP);
                !(never_executed || smep)
            }
        }
    }
}

impl Access {
    /// Whether the access counts as a user-mode access.
    const fn is_user(self) -> bool {
        self.user && !self.implicit
    }
}
