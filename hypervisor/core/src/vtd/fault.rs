//! What devices were kept from doing: fault records, read and cleared.
//!
//! `drain` turns a unit's recording registers into [`FaultRecord`]s. How many of them are told, and when a device is cut
//! off, is decided by [`super::flood`]; reasons are named in [`super::reason`]. See Intel VT-d, "Fault Recording Registers"
//! and "Fault Status Register".

use core::fmt;

use crate::addr::Gpa;

use super::SourceId;
use super::capability::FaultRecords;
use super::reason::FaultReason;
use super::registers::{self, FAULT_RECORD_BYTES, FaultStatus, Reg32, Reg64, UnitRegisters};

/// What the device wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// To write; an interrupt is a write too.
    Write,
    /// To read.
    Read,
    /// To ask for a page.
    PageRequest,
    /// To read and write at once.
    Atomic,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::PageRequest => "page request",
            Self::Atomic => "atomic operation",
        })
    }
}

/// One recorded fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultRecord {
    /// Who.
    pub source: SourceId,
    /// What it wanted.
    pub access: Access,
    /// Why it did not get it.
    pub reason: FaultReason,
    /// Where: the page for DMA, and for interrupts the index into the remapping table.
    pub place: Place,
}

/// Where a fault was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The page that the device named.
    Page(Gpa),
    /// The index of the interrupt-remapping entry.
    Interrupt(u16),
}

impl fmt::Display for FaultRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            source,
            access,
            reason,
            place,
        } = self;
        match place {
            Place::Page(page) => write!(f, "device {source}: {access} at {page}: {reason}"),
            Place::Interrupt(index) => write!(f, "device {source}: interrupt {index}: {reason}"),
        }
    }
}

impl FaultRecord {
    /// Present, in the high word (F).
    const FAULT: u64 = 1 << 63;
    const TYPE_1: u64 = 1 << 62;
    const TYPE_2: u64 = 1 << 28;
    const REASON: u32 = 32;
    const INTERRUPT_INDEX: u32 = 48;

    /// The fault in a recording register's two words, or `None` where it holds none. A PASID is not looked at:
    /// in the legacy format there is none.
    #[must_use]
    pub const fn decode(low: u64, high: u64) -> Option<Self> {
        if high & Self::FAULT == 0 {
            return None;
        }
        let access = match (high & Self::TYPE_1 != 0, high & Self::TYPE_2 != 0) {
            (false, false) => Access::Write,
            (true, false) => Access::Read,
            (false, true) => Access::PageRequest,
            (true, true) => Access::Atomic,
        };
        let reason = FaultReason::from_raw((high >> Self::REASON) as u8);
        let place = if reason.is_interrupt() {
            Place::Interrupt((low >> Self::INTERRUPT_INDEX) as u16)
        } else {
            Place::Page(Gpa(low & !0xfff))
        };
        Some(Self {
            source: SourceId(high as u16),
            access,
            reason,
            place,
        })
    }
}

/// What one pass over a unit's records found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Drained {
    /// How many faults there were.
    pub faults: u32,
    /// Whether further ones were lost.
    pub overflow: bool,
}

/// Hands each recorded fault to `each`, oldest first, and clears it. One pass at most: a device that floods cannot keep a CPU here.
pub(super) fn drain(
    registers: &mut impl UnitRegisters,
    records: FaultRecords,
    mut each: impl FnMut(FaultRecord),
) -> Drained {
    let raw = registers.read32(registers::FAULT_STATUS);
    let status = FaultStatus::from_bits_truncate(raw);
    let mut drained = Drained {
        faults: 0,
        overflow: status.contains(FaultStatus::OVERFLOW),
    };
    if status.contains(FaultStatus::PENDING) && records.count > 0 {
        let mut index = FaultStatus::record_index(raw) % records.count;
        for _ in 0..records.count {
            let at = records.first + index * FAULT_RECORD_BYTES;
            let low = registers.read64(Reg64(at));
            let high = registers.read64(Reg64(at + 8));
            let Some(record) = FaultRecord::decode(low, high) else {
                break;
            };
            each(record);
            drained.faults += 1;
            // The uppermost bit clears itself when written as one; the rest of the register is read-only.
            registers.write32(Reg32(at + 12), 1 << 31);
            index = (index + 1) % records.count;
        }
    }
    if drained.overflow {
        // Last: cleared before the records are, it would be set again at once.
        registers.write32(registers::FAULT_STATUS, FaultStatus::OVERFLOW.bits());
    }
    drained
}
