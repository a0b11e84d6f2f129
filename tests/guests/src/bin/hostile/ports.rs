//! Every I/O port, in every width, by single and by string instructions.

use bulkhead_core::platform::{
    COM1_BASE, COM1_PORTS, POWER_SLEEP_CONTROL_PORT, POWER_SLEEP_STATUS_PORT, RESET_PORT,
};
use test_guests::case::Case;
use test_guests::params::Params;
use test_guests::trap::PAGE_FAULT;
use test_guests::{attempt, cpu, window};

/// The widest access, in bytes.
const WIDEST: u16 = 4;
const UART_SCRATCH: u16 = COM1_BASE + 7;
const UNCLAIMED: u16 = 0x40;

pub(crate) fn every_port(_: &mut Case, _: &Params) {
    for port in 0..=u16::MAX {
        // Reading never ends a VM; writing to these would.
        let _ = (cpu::inb(port), cpu::inw(port), cpu::inl(port));
        if !is_own(port) {
            cpu::outb(port, 0xff);
            cpu::outw(port, 0xffff);
            cpu::outl(port, u32::MAX);
        }
    }
}

/// Whether a write of any width at `port` would reach a port that this guest needs unchanged.
fn is_own(port: u16) -> bool {
    let reaches =
        |first: u16, count: u16| port.saturating_add(WIDEST) > first && port < first + count;
    reaches(COM1_BASE, COM1_PORTS)
        || reaches(POWER_SLEEP_CONTROL_PORT, 1)
        || reaches(POWER_SLEEP_STATUS_PORT, 1)
        || reaches(RESET_PORT, 1)
}

pub(crate) fn string_io(case: &mut Case, _: &Params) {
    let mut buffer = [0x5a_u8; 64];
    let at = buffer.as_mut_ptr() as u64;

    case.check(
        insb(UNCLAIMED, at, 64).is_ok(),
        format_args!("rep insb of an unclaimed port faulted"),
    );
    case.check(
        outsb(UNCLAIMED, at, 64).is_ok(),
        format_args!("rep outsb to an unclaimed port faulted"),
    );
    case.check(
        insb(UART_SCRATCH, at, 64).is_ok(),
        format_args!("rep insb of the UART faulted"),
    );
    case.check(
        outsb(UART_SCRATCH, at, 64).is_ok(),
        format_args!("rep outsb to the UART faulted"),
    );
    case.check(
        insb(UNCLAIMED, at, 0).is_ok(),
        format_args!("rep insb with count 0 faulted"),
    );

    window::unmap();
    let unmapped = insb(UNCLAIMED, window::BASE, 4).map_err(|fault| fault.vector);
    case.check(
        unmapped == Err(PAGE_FAULT),
        format_args!("insb to an unmapped page: {unmapped:?}"),
    );
    let unmapped = outsb(UNCLAIMED, window::BASE, 4).map_err(|fault| fault.vector);
    case.check(
        unmapped == Err(PAGE_FAULT),
        format_args!("outsb from an unmapped page: {unmapped:?}"),
    );
    // From the last bytes of a mapped page into the unmapped one behind it.
    let last = window::map(at & !0xfff) + 0xffe;
    let crossing = outsb(UNCLAIMED, last, 8).map_err(|fault| fault.vector);
    case.check(
        crossing == Err(PAGE_FAULT),
        format_args!("outsb across a page's end: {crossing:?}"),
    );
    window::unmap();
}

fn insb(port: u16, at: u64, count: u64) -> Result<(), test_guests::trap::Fault> {
    // SAFETY: `at` is a buffer of `count` bytes, or unmapped.
    unsafe {
        attempt!("rep insb"; in("dx") port, inout("rdi") at => _, inout("rcx") count => _, options(nostack))
    }
}

fn outsb(port: u16, at: u64, count: u64) -> Result<(), test_guests::trap::Fault> {
    // SAFETY: only reads memory.
    unsafe {
        attempt!("rep outsb"; in("dx") port, inout("rsi") at => _, inout("rcx") count => _, options(nostack))
    }
}
