//! The state in which a vCPU enters its guest: what the VMCS guest-state area is filled from ([`EntryState`]),
//! and the GDT and identity page tables that state points to.
//!
//! Segment access rights have the VMCS's format (Intel SDM vol. 3C, "Guest Register State").

use alloc::vec::Vec;

use bulkhead_core::addr::{FRAME_SIZE, Gpa, SIZE_2M};

use crate::boot_area;
use crate::memory::{GuestMemory, OutOfRange};

/// The operating mode a guest is entered in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryMode {
    /// 64-bit mode, paging on, the first 4 GiB identity-mapped.
    Long64,
    /// 32-bit protected mode, paging off.
    Protected32,
}

/// The general registers, instruction pointer and flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the architectural names say it")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The visible selector.
    pub selector: u16,
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u32,
    /// Access rights in the VMCS's format.
    pub access_rights: u32,
}

impl Segment {
    /// A segment register that may not be used: bit 16 of the access rights.
    pub const UNUSABLE: Self = Self {
        selector: 0,
        base: 0,
        limit: 0,
        access_rights: 1 << 16,
    };

    /// A busy 32/64-bit TSS, which VM entry demands of TR.
    const TASK: Self = Self {
        selector: 0,
        base: 0,
        limit: 0x67,
        access_rights: 0x8b,
    };
    const CODE32: Self = Self::flat(SELECTOR_CODE32, 0xc09b);
    const CODE64: Self = Self::flat(SELECTOR_CODE64, 0xa09b);
    const DATA: Self = Self::flat(SELECTOR_DATA, 0xc093);

    const fn flat(selector: u16, access_rights: u32) -> Self {
        Self {
            selector,
            base: 0,
            limit: u32::MAX,
            access_rights,
        }
    }

    /// The descriptor that reloads this flat segment from a table (Intel SDM vol. 3A, "Segment Descriptors").
    const fn descriptor(&self) -> u64 {
        let limit_in_pages = (self.limit >> 12) as u64;
        (limit_in_pages & 0xffff)
            | ((limit_in_pages >> 16) << 48)
            | ((self.access_rights as u64 & 0xff) << 40)
            | ((self.access_rights as u64 & 0xf000) << 40)
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorTable {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// Everything a vCPU needs to run the guest's first instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryState {
    /// The mode the fields below amount to.
    pub mode: EntryMode,
    /// General registers, RIP, RFLAGS.
    pub registers: Registers,
    /// CR0; VM entry may need NE and further fixed bits added.
    pub cr0: u64,
    /// Root of the guest's page tables; zero where paging is off.
    pub cr3: Gpa,
    /// CR4; VM entry needs VMXE added in the real register.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// Code segment.
    pub cs: Segment,
    /// SS, DS and ES.
    pub data: Segment,
    /// FS and GS.
    pub fs_gs: Segment,
    /// LDTR.
    pub ldtr: Segment,
    /// TR.
    pub tr: Segment,
    /// GDTR: the table lies in guest memory.
    pub gdtr: DescriptorTable,
    /// IDTR: empty, a guest sets up its own before it takes an interrupt.
    pub idtr: DescriptorTable,
}

const SELECTOR_CODE32: u16 = 0x08;
/// `__BOOT_CS` of the Linux 64-bit boot protocol.
const SELECTOR_CODE64: u16 = 0x10;
/// `__BOOT_DS` of the Linux 64-bit boot protocol.
const SELECTOR_DATA: u16 = 0x18;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// RFLAGS with only the bit that is always set.
const RFLAGS_FIXED: u64 = 1 << 1;

/// Descriptors in the loader's GDT.
const GDT: [u64; 4] = [
    0,
    Segment::CODE32.descriptor(),
    Segment::CODE64.descriptor(),
    Segment::DATA.descriptor(),
];
const GDT_LIMIT: u16 = (size_of_val(&GDT) - 1) as u16;

const _: () = assert!(GDT[1] == 0x00cf_9b00_0000_ffff);
const _: () = assert!(GDT[2] == 0x00af_9b00_0000_ffff);
const _: () = assert!(GDT[3] == 0x00cf_9300_0000_ffff);

impl EntryState {
    /// 64-bit mode at `rip`; the first 4 GiB are identity-mapped by [`write_tables`].
    pub(crate) const fn long64(rip: Gpa) -> Self {
        Self {
            mode: EntryMode::Long64,
            cr0: CR0_PE | CR0_ET | CR0_NE | CR0_PG,
            cr3: boot_area::PAGE_TABLES.start,
            cr4: CR4_PAE,
            efer: EFER_LME | EFER_LMA,
            cs: Segment::CODE64,
            ..Self::protected32(rip)
        }
    }

    /// 32-bit protected mode at `eip`, paging off, flat segments.
    pub(crate) const fn protected32(eip: Gpa) -> Self {
        Self {
            mode: EntryMode::Protected32,
            registers: Registers {
                rax: 0,
                rbx: 0,
                rcx: 0,
                rdx: 0,
                rsi: 0,
                rdi: 0,
                rbp: 0,
                rsp: boot_area::STACK.end.0,
                r8: 0,
                r9: 0,
                r10: 0,
                r11: 0,
                r12: 0,
                r13: 0,
                r14: 0,
                r15: 0,
                rip: eip.0,
                rflags: RFLAGS_FIXED,
            },
            cr0: CR0_PE | CR0_ET | CR0_NE,
            cr3: Gpa(0),
            cr4: 0,
            efer: 0,
            cs: Segment::CODE32,
            data: Segment::DATA,
            fs_gs: Segment::DATA,
            ldtr: Segment::UNUSABLE,
            tr: Segment::TASK,
            gdtr: DescriptorTable {
                base: boot_area::GDT.start.0,
                limit: GDT_LIMIT,
            },
            idtr: DescriptorTable { base: 0, limit: 0 },
        }
    }
}

/// Writes the GDT and the identity page tables that every [`EntryState`] relies on.
pub(crate) fn write_tables(mem: &mut dyn GuestMemory) -> Result<(), OutOfRange> {
    let gdt: Vec<u8> = GDT
        .iter()
        .flat_map(|descriptor| descriptor.to_le_bytes())
        .collect();
    mem.write(boot_area::GDT.start, &gdt)?;
    mem.write(boot_area::PAGE_TABLES.start, &identity_page_tables())
}

/// Gigabytes the identity map covers: all a 32-bit pointer reaches.
const MAPPED_GIB: u64 = 4;
const ENTRIES: u64 = 512;
const PRESENT_WRITABLE: u64 = 0b11;
const PAGE_SIZE_2M: u64 = 1 << 7;

/// PML4, page-directory-pointer table and directories of 2 MiB pages (not 1 GiB: those are a CPU feature).
fn identity_page_tables() -> Vec<u8> {
    let page = |n: u64| boot_area::PAGE_TABLES.start.0 + n * FRAME_SIZE;
    let pad = |used: u64| core::iter::repeat_n(0, (ENTRIES - used) as usize);

    let pml4 = core::iter::once(page(1) | PRESENT_WRITABLE).chain(pad(1));
    let pdpt = (0..MAPPED_GIB)
        .map(|gib| page(2 + gib) | PRESENT_WRITABLE)
        .chain(pad(MAPPED_GIB));
    let directories =
        (0..MAPPED_GIB * ENTRIES).map(|n| (n * SIZE_2M) | PRESENT_WRITABLE | PAGE_SIZE_2M);
    pml4.chain(pdpt)
        .chain(directories)
        .flat_map(u64::to_le_bytes)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Translates `gva` by the tables in `bytes`, which start at the page-table area.
    fn translate(bytes: &[u8], gva: u64) -> Option<u64> {
        let entry = |table: u64, index: u64| {
            let at = (table - boot_area::PAGE_TABLES.start.0 + index * 8) as usize;
            u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
        };
        let mut table = boot_area::PAGE_TABLES.start.0;
        for shift in [39, 30, 21] {
            let found = entry(table, (gva >> shift) & 0x1ff);
            if found & 1 == 0 {
                return None;
            }
            if found & PAGE_SIZE_2M != 0 {
                return Some((found & !(SIZE_2M - 1)) | (gva & (SIZE_2M - 1)));
            }
            table = found & !0xfff;
        }
        None
    }

    #[test]
    fn first_four_gib_map_to_themselves_and_nothing_else_is_mapped() {
        let tables = identity_page_tables();
        assert_eq!(tables.len() as u64, boot_area::PAGE_TABLES.len());
        for gva in [0, 0x1234, SIZE_2M - 1, SIZE_2M, 0x7fff_ffff, 0xffff_ffff] {
            assert_eq!(translate(&tables, gva), Some(gva));
        }
        for gva in [1 << 32, 1 << 39, 1 << 47] {
            assert_eq!(translate(&tables, gva), None);
        }
    }

    #[test]
    fn long_mode_state_is_consistent() {
        let state = EntryState::long64(Gpa(0x20_0200));
        assert_eq!(state.registers.rip, 0x20_0200);
        assert_ne!(state.cr0 & CR0_PG, 0);
        assert_ne!(state.cr4 & CR4_PAE, 0);
        assert_eq!(state.efer, EFER_LME | EFER_LMA);
        assert_eq!((state.cs.selector, state.data.selector), (0x10, 0x18));
    }

    #[test]
    fn protected_mode_state_has_paging_off() {
        let state = EntryState::protected32(Gpa(0x10_0000));
        assert_eq!(state.cr0 & CR0_PG, 0);
        assert_eq!((state.cr4, state.efer), (0, 0));
        assert_eq!(state.cs.limit, u32::MAX);
    }
}
