//! WDAT: how a guest drives the platform's watchdog without knowing its registers
//! ("Hardware Watchdog Timers Design Specification", "Watchdog Action Table").

use alloc::vec::Vec;

use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::sdt::Sdt;
use bulkhead_core::platform::{
    WATCHDOG_CONTROL_PORT, WATCHDOG_COUNTDOWN_PORT, WATCHDOG_FIRED, WATCHDOG_MAX_MS,
    WATCHDOG_MIN_MS, WATCHDOG_RELOAD_PORT, WATCHDOG_REMAINING_PORT, WATCHDOG_RUN,
    WATCHDOG_STATUS_PORT,
};

use super::{bytes_of, io_register};

const REVISION: u8 = 1;
/// Bytes from the header length to the first instruction entry.
const HEADER_LENGTH: u32 = 32;
/// Segment, bus, device and function of a watchdog that is no PCI device.
const NOT_PCI: [u8; 5] = [0xff, 0, 0xff, 0xff, 0xff];
/// Milliseconds in a count.
const TIMER_PERIOD: u32 = 1;
const FLAG_ENABLED: u8 = 1 << 0;

/// What a guest wants done.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Action {
    Reset = 1,
    QueryCurrentCountdown = 4,
    QueryCountdown = 5,
    SetCountdown = 6,
    QueryRunning = 8,
    SetRunning = 9,
    QueryStopped = 10,
    SetStopped = 11,
    QueryStatus = 32,
    SetStatus = 33,
}

/// What does it.
#[derive(Clone, Copy)]
enum Instruction {
    /// True where the byte-wide register's masked bits are the value.
    Compare(u8),
    /// The four-byte register's content is the answer.
    Read,
    /// Write this value to the byte-wide register.
    Write(u8),
    /// Write the guest's count to the four-byte register.
    WriteCount,
}

/// The table's entries: port by port, what each action does to it.
const ENTRIES: [(Action, u16, Instruction); 10] = {
    use Action as A;
    use Instruction as I;
    [
        (A::Reset, WATCHDOG_RELOAD_PORT, I::Write(1)),
        (A::QueryCurrentCountdown, WATCHDOG_REMAINING_PORT, I::Read),
        (A::QueryCountdown, WATCHDOG_COUNTDOWN_PORT, I::Read),
        (A::SetCountdown, WATCHDOG_COUNTDOWN_PORT, I::WriteCount),
        (
            A::QueryRunning,
            WATCHDOG_CONTROL_PORT,
            I::Compare(WATCHDOG_RUN),
        ),
        (A::SetRunning, WATCHDOG_CONTROL_PORT, I::Write(WATCHDOG_RUN)),
        (A::QueryStopped, WATCHDOG_CONTROL_PORT, I::Compare(0)),
        (A::SetStopped, WATCHDOG_CONTROL_PORT, I::Write(0)),
        (
            A::QueryStatus,
            WATCHDOG_STATUS_PORT,
            I::Compare(WATCHDOG_FIRED),
        ),
        (A::SetStatus, WATCHDOG_STATUS_PORT, I::Write(WATCHDOG_FIRED)),
    ]
};

/// The table.
pub(super) fn table() -> Sdt {
    let mut body = Vec::new();
    body.extend(HEADER_LENGTH.to_le_bytes());
    body.extend(NOT_PCI);
    body.extend([0; 3]);
    body.extend(TIMER_PERIOD.to_le_bytes());
    body.extend(WATCHDOG_MAX_MS.to_le_bytes());
    body.extend(WATCHDOG_MIN_MS.to_le_bytes());
    body.extend([FLAG_ENABLED, 0, 0, 0]);
    body.extend((ENTRIES.len() as u32).to_le_bytes());
    for (action, port, instruction) in ENTRIES {
        body.extend(entry(action, port, instruction));
    }
    super::table(*b"WDAT", REVISION, &body)
}

/// An instruction entry: action, instruction, register, value, mask.
fn entry(action: Action, port: u16, instruction: Instruction) -> Vec<u8> {
    let (code, register, value, mask) = match instruction {
        Instruction::Compare(value) => (0, io_register(port), value, u32::from(u8::MAX)),
        Instruction::Read => (1, wide_io_register(port), 0, u32::MAX),
        Instruction::Write(value) => (2, io_register(port), value, u32::from(u8::MAX)),
        Instruction::WriteCount => (3, wide_io_register(port), 0, u32::MAX),
    };
    let mut bytes = Vec::with_capacity(24);
    bytes.extend([action as u8, code, 0, 0]);
    bytes.extend(bytes_of(&register));
    bytes.extend(u32::from(value).to_le_bytes());
    bytes.extend(mask.to_le_bytes());
    bytes
}

/// A four-byte register in I/O space.
fn wide_io_register(port: u16) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        32,
        0,
        AccessSize::DwordAccess,
        u64::from(port),
    )
}
