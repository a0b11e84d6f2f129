//! Every I/O port, in every width, by single and by string instructions.

use bulkhead_core::platform::{
    COM1_BASE, COM1_PORTS, EVENT_PORT, PCI_CONFIG_ADDRESS_PORT, POWER_SLEEP_CONTROL_PORT,
    POWER_SLEEP_STATUS_PORT, RESET_PORT, RTC_INDEX_PORT, WATCHDOG_BASE, WATCHDOG_PORTS,
};
use test_guests::case::Case;
use test_guests::params::Params;
use test_guests::trap::PAGE_FAULT;
use test_guests::{attempt, cpu, window};

const UART_SCRATCH: u16 = COM1_BASE + 7;
const UNCLAIMED: u16 = 0x40;

/// Ports nobody claims read as all ones, and keep doing so whatever was written to them.
pub(crate) fn every_port(case: &mut Case, _: &Params) {
    for port in 0..=u16::MAX {
        expect_ones(case, port, "at first");
        // Reading never ends a VM; writing to its own ports would.
        if !is_own(port, 1) {
            cpu::outb(port, 0xa5);
        }
        if !is_own(port, 2) {
            cpu::outw(port, 0xa5a5);
        }
        if !is_own(port, 4) {
            cpu::outl(port, 0xa5a5_a5a5);
        }
        expect_ones(case, port, "after writes");
    }
}

/// Reads `port` in every width; an access that reaches one of the VM's own ports may find anything.
fn expect_ones(case: &mut Case, port: u16, when: &str) {
    let reads = [
        (1, u32::from(cpu::inb(port)), 0xff),
        (2, cpu::inw(port).into(), 0xffff),
        (4, cpu::inl(port), u32::MAX),
    ];
    for (width, found, ones) in reads {
        case.check(
            found == ones || is_own(port, width),
            format_args!("{width} bytes of port {port:#x} {when}: {found:#x}"),
        );
    }
}

/// Whether an access of `width` bytes at `port` reaches a port that the platform claims.
fn is_own(port: u16, width: u16) -> bool {
    let reaches = |first: u16, count: u16| {
        port < first + count && u32::from(port) + u32::from(width) > u32::from(first)
    };
    reaches(COM1_BASE, COM1_PORTS)
        || reaches(POWER_SLEEP_CONTROL_PORT, 1)
        || reaches(POWER_SLEEP_STATUS_PORT, 1)
        || reaches(RESET_PORT, 1)
        || reaches(EVENT_PORT, 1)
        || reaches(WATCHDOG_BASE, WATCHDOG_PORTS)
        || reaches(RTC_INDEX_PORT, 2)
        || reaches(PCI_CONFIG_ADDRESS_PORT, 8)
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
