//! Windows to configuration space in memory, as the firmware's MCFG table names them (PCI Firmware Specification,
//! "MCFG Table Description").

use alloc::vec::Vec;
use core::fmt;

use crate::addr::Hpa;
use crate::hostacpi::table::{HEADER_LEN, byte, u16_at, u64_at};

use super::address::Address;
use super::enumerate::HostBridge;

/// Bytes of a bus's configuration space, and of a function's.
const BUS_BYTES: u64 = 1 << 20;
const FUNCTION_BYTES: u64 = 1 << 12;
/// Where the entries begin, behind eight reserved bytes.
const FIRST_ENTRY: usize = HEADER_LEN + 8;
const ENTRY_BYTES: usize = 16;
/// Machines have one for each segment, or for each processor package.
const MAX_WINDOWS: usize = 64;

/// The configuration space of some buses, in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EcamWindow {
    /// Where that of bus 0 is, or would be.
    base: Hpa,
    /// Which buses it has.
    bridge: HostBridge,
}

/// An entry of the table that names no window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadWindow {
    /// Its number.
    pub entry: usize,
    /// Where it says that bus 0 is.
    pub base: Hpa,
}

impl fmt::Display for BadWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ACPI MCFG entry {}, at {}: no window of whole buses, a doubled one, or one too many; left out",
            self.entry, self.base
        )
    }
}

impl EcamWindow {
    /// The windows in the bytes of an MCFG table; what makes no sense is handed to `skipped`. Of windows with a bus in
    /// common the first is kept.
    #[must_use]
    #[inline(never)]
    pub fn parse(mcfg: &[u8], skipped: &mut dyn FnMut(BadWindow)) -> Vec<Self> {
        let mut windows: Vec<Self> = Vec::new();
        let entries = mcfg.get(FIRST_ENTRY..).unwrap_or_default();
        for (entry, bytes) in entries.chunks_exact(ENTRY_BYTES).enumerate() {
            let base = Hpa(u64_at(bytes, 0).unwrap_or(0));
            match Self::of(bytes, base) {
                Some(window)
                    if windows.len() < MAX_WINDOWS
                        && !windows.iter().any(|other| other.meets(&window)) =>
                {
                    windows.push(window);
                }
                _ => skipped(BadWindow { entry, base }),
            }
        }
        windows
    }

    fn of(bytes: &[u8], base: Hpa) -> Option<Self> {
        let bridge = HostBridge {
            segment: u16_at(bytes, 8)?,
            first_bus: byte(bytes, 10)?,
            last_bus: byte(bytes, 11)?,
        };
        let end = BUS_BYTES * (u64::from(bridge.last_bus) + 1);
        let sensible = base.is_aligned(BUS_BYTES)
            && bridge.first_bus <= bridge.last_bus
            && base.0.checked_add(end).is_some();
        let window = Self { base, bridge };
        // Page 0 holds no registers.
        (sensible && window.start().0 != 0).then_some(window)
    }

    fn meets(&self, other: &Self) -> bool {
        let (one, two) = (self.bridge, other.bridge);
        one.segment == two.segment && one.first_bus <= two.last_bus && two.first_bus <= one.last_bus
    }

    /// The buses.
    #[must_use]
    pub const fn bridge(&self) -> HostBridge {
        self.bridge
    }

    /// Its first byte.
    #[must_use]
    pub const fn start(&self) -> Hpa {
        Hpa(self.base.0 + self.bridge.first_bus as u64 * BUS_BYTES)
    }

    /// Its size.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        ((self.bridge.last_bus - self.bridge.first_bus) as u64 + 1) * BUS_BYTES
    }

    /// Where a function's configuration space is, where this window has it.
    #[must_use]
    pub fn place(&self, function: Address) -> Option<Hpa> {
        let bridge = self.bridge;
        let inside = function.segment() == bridge.segment
            && (bridge.first_bus..=bridge.last_bus).contains(&function.bus());
        inside.then(|| Hpa(self.base.0 + u64::from(function.source_id()) * FUNCTION_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn table(entries: &[(u64, u16, u8, u8)]) -> Vec<u8> {
        let mut bytes = vec![0; FIRST_ENTRY];
        for (base, segment, first, last) in entries {
            bytes.extend(base.to_le_bytes());
            bytes.extend(segment.to_le_bytes());
            bytes.extend([*first, *last, 0, 0, 0, 0]);
        }
        bytes
    }

    fn read(entries: &[(u64, u16, u8, u8)]) -> (Vec<EcamWindow>, Vec<usize>) {
        let mut bad = Vec::new();
        let windows = EcamWindow::parse(&table(entries), &mut |window| bad.push(window.entry));
        (windows, bad)
    }

    #[test]
    fn function_lies_where_the_specification_puts_it() {
        let (windows, bad) = read(&[(0xe000_0000, 0, 0, 0xff)]);
        assert!(bad.is_empty());
        let function = Address::new(0, 3, 0x1f, 7).unwrap();
        assert_eq!(windows[0].place(function), Some(Hpa(0xe03f_f000)));
        assert_eq!(
            (windows[0].start(), windows[0].bytes()),
            (Hpa(0xe000_0000), 256 << 20)
        );
    }

    #[test]
    fn base_is_that_of_bus_0_even_where_the_window_begins_later() {
        let (windows, _) = read(&[(0xc000_0000, 1, 0x40, 0x4f)]);
        assert_eq!(
            (windows[0].start(), windows[0].bytes()),
            (Hpa(0xc400_0000), 16 << 20)
        );
        assert_eq!(windows[0].place(Address::new(1, 0x50, 0, 0).unwrap()), None);
        assert_eq!(windows[0].place(Address::new(0, 0x40, 0, 0).unwrap()), None);
    }

    #[test]
    fn what_cannot_be_a_window_is_left_out_and_named() {
        let (windows, bad) = read(&[
            (0xe000_0000, 0, 0, 0x7f),
            (0xe008_0000, 1, 0, 1),
            (u64::MAX - 0xf_ffff, 2, 0, 1),
            (0xf000_0000, 3, 2, 1),
            (0xf000_0000, 0, 0x7f, 0xff),
            (0, 4, 0, 0),
        ]);
        assert_eq!((windows.len(), bad), (1, vec![1, 2, 3, 4, 5]));
    }

    #[test]
    fn cut_table_has_the_whole_entries_only() {
        let mut bytes = table(&[(0xe000_0000, 0, 0, 0xff)]);
        bytes.truncate(bytes.len() - 1);
        assert!(EcamWindow::parse(&bytes, &mut |_| {}).is_empty());
        assert!(EcamWindow::parse(&[], &mut |_| {}).is_empty());
    }
}
