//! What is read of a guest's kernel, through its own tables.

use alloc::vec::Vec;

use crate::addr::{FRAME_SIZE, Gpa, Gva};
use crate::fault::StopReason;
use crate::insn::{self, MAX_LENGTH, Operation};
use crate::split::{HALF_BYTES, HALF_OFFSET, KernelHalf, Name, Read};
use crate::vcpu::effects::Cpu;
use crate::vcpu::{Vcpu, linear, mmio};
use crate::vmx::field;
use crate::walk::{AccessKind, PageFaultCode};

/// A page of the guest's and what is in it.
pub(super) struct Page {
    gva: Gva,
    gpa: Gpa,
    bytes: Vec<u8>,
}

impl Page {
    pub(super) fn read<C: Cpu>(cpu: &mut C, gva: Gva) -> Option<Self> {
        let gpa = linear::locate(cpu, gva, AccessKind::Read).ok()?;
        let page = Self::read_physical(cpu, gpa)?;
        Some(Self { gva, ..page })
    }

    pub(super) fn read_physical<C: Cpu>(cpu: &mut C, gpa: Gpa) -> Option<Self> {
        let mut bytes = alloc::vec![0; FRAME_SIZE as usize];
        cpu.read_guest(gpa, &mut bytes).then_some(Self {
            gva: Gva(0),
            gpa,
            bytes,
        })
    }

    pub(super) fn as_read(&self) -> Read<'_> {
        Read {
            gva: self.gva,
            gpa: self.gpa,
            bytes: &self.bytes,
        }
    }
}

/// Where in memory the kernel has `gva`; `None` where it has nothing.
pub(super) fn place_of<C: Cpu>(cpu: &mut C, gva: Gva) -> Option<Gpa> {
    linear::locate(cpu, gva, AccessKind::Fetch).ok()
}

pub(super) fn read_word<C: Cpu>(cpu: &mut C, gva: Gva) -> Option<u64> {
    let gpa = linear::locate(cpu, gva, AccessKind::Read).ok()?;
    let mut bytes = [0; 8];
    let read = cpu.read_guest(gpa, &mut bytes);
    read.then_some(u64::from_le_bytes(bytes))
}

/// The page at `gva` as the kernel has it, and the tables of the kernel half on the way to it; `None` where it has none, so that the processor finds
/// none either.
pub(super) fn name<C: Cpu>(cpu: &mut C, gva: Gva) -> Option<(Name, [Option<Gpa>; 3])> {
    const PRESENT: u64 = 1 << 0;
    const WRITE: u64 = 1 << 1;
    const LARGE: u64 = 1 << 7;
    const TABLE: u64 = 0x000f_ffff_ffff_f000;
    let mut tables = [None; 3];
    let mut table = Gpa(cpu.read(field::GUEST_CR3).0 & TABLE);
    let mut writable = true;
    for level in (1..=4_u32).rev() {
        let shift = 3 + 9 * level;
        let mut bytes = [0; 8];
        let at = Gpa(table.0 + 8 * (gva.0 >> shift & 0x1ff));
        let entry = cpu
            .read_guest(at, &mut bytes)
            .then_some(u64::from_le_bytes(bytes))?;
        if entry & PRESENT == 0 {
            return None;
        }
        writable &= entry & WRITE != 0;
        let is_page = level == 1 || (level < 4 && entry & LARGE != 0);
        if is_page {
            let into = gva.0 & ((1 << shift) - 1);
            let first = entry & TABLE & !((1 << shift) - 1);
            let name = Name {
                gva,
                gpa: Gpa(first | into),
                writable,
                executable: false,
            };
            return Some((name, tables));
        }
        table = Gpa(entry & TABLE);
        if let Some(slot) = tables.get_mut(level as usize - 2) {
            *slot = Some(table);
        }
    }
    None
}

pub(super) fn read_half<C: Cpu>(cpu: &mut C, table: Gpa) -> Result<KernelHalf, StopReason> {
    let mut bytes = [0; HALF_BYTES];
    let gpa = Gpa(table.0 + HALF_OFFSET);
    if cpu.read_guest(gpa, &mut bytes) {
        Ok(KernelHalf::new(bytes))
    } else {
        Err(StopReason::OutsideMemory { gpa, write: false })
    }
}

/// The error code of user code's page fault in the kernel half, which is never its own, whatever the guest's tables say. The processor tells of the walk
/// alone; what the instruction was about to do is read from it, and an instruction that is no plain store counts as a load.
pub(super) fn kernel_fault<C: Cpu>(cpu: &mut C, gva: Gva) -> PageFaultCode {
    let mut code = PageFaultCode::USER;
    code.set(
        PageFaultCode::PROTECTION,
        linear::locate(cpu, gva, AccessKind::Read).is_ok(),
    );
    let behind = gva.0.wrapping_sub(Vcpu::rip(cpu).0);
    if behind < MAX_LENGTH as u64 {
        return code | PageFaultCode::FETCH;
    }
    let mut bytes = [0; MAX_LENGTH];
    let fetched = mmio::fetch_instruction(cpu, &mut bytes).unwrap_or(0);
    let fetched = bytes.get(..fetched).unwrap_or_default();
    let decoded = insn::decode(fetched, linear::code_mode(cpu));
    let is_store = decoded.is_ok_and(|insn| !matches!(insn.operation, Operation::Load { .. }));
    code.set(PageFaultCode::WRITE, is_store);
    code
}
