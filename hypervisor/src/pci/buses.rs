//! Configuration space: through the firmware's windows in memory, or through ports where there is none.
#![allow(unsafe_code, reason = "registers lie at physical addresses and ports")]

use crate::memory::{Memory, frames_of};
use alloc::vec::Vec;
use bulkhead_core::hostpt::HostAttr;
use bulkhead_core::pci::{Address, ConfigAccess, EcamWindow, Extent, HostBridge, Width};
use core::ptr;
use x86_64::instructions::port::Port;

/// The mechanism that every PC has (PCI Local Bus Specification, "Software Generation of Configuration Transactions").
const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;
/// What ports reach.
const LEGACY_BYTES: u16 = 256;

/// The way to every function's configuration space. There is one, so that the two ports are one caller's at a time.
pub struct Buses {
    windows: Vec<EcamWindow>,
}

impl Buses {
    /// Maps the windows. One that cannot be mapped is left out, and ports reach what they can of it.
    pub fn map(memory: &mut Memory, windows: &[EcamWindow]) -> Self {
        let mapped = windows.iter().filter(|window| {
            let run = frames_of(window.start().0, window.bytes());
            match memory.map_device(run, HostAttr::DEVICE) {
                Ok(()) => true,
                Err(error) => {
                    log::warn!("PCI: the window at {}: {error}; left out", window.start());
                    false
                }
            }
        });
        Self {
            windows: mapped.copied().collect(),
        }
    }

    /// Whether there are windows.
    #[must_use]
    pub fn has_windows(&self) -> bool {
        !self.windows.is_empty()
    }

    /// Where functions may be: in the windows, and on those buses of segment 0 that ports alone reach.
    #[must_use]
    pub fn bridges(&self) -> Vec<HostBridge> {
        let mut bridges: Vec<_> = self.windows.iter().map(EcamWindow::bridge).collect();
        let mut left: Option<HostBridge> = None;
        for bus in 0..=u8::MAX {
            let address = Address::from_source_id(0, u16::from(bus) << 8);
            if self.place(address, 0).is_some() {
                bridges.extend(left.take());
            } else {
                let first_bus = left.map_or(bus, |bridge| bridge.first_bus);
                left = Some(HostBridge {
                    segment: 0,
                    first_bus,
                    last_bus: bus,
                });
            }
        }
        bridges.extend(left);
        bridges
    }

    /// Where the register at `at` is in memory.
    fn place(&self, function: Address, at: u16) -> Option<*mut u8> {
        let base = self
            .windows
            .iter()
            .find_map(|window| window.place(function))?;
        Some(ptr::with_exposed_provenance_mut(
            base.0 as usize + usize::from(at),
        ))
    }

    /// Names the register at `at` by port, where ports reach it.
    fn select(function: Address, at: u16) -> bool {
        if function.segment() != 0 || at >= LEGACY_BYTES {
            return false;
        }
        let address = ENABLE | u32::from(function.source_id()) << 8 | u32::from(at & !3);
        // SAFETY: the address port of configuration space, which only `Buses` uses.
        unsafe { Port::new(ADDRESS_PORT).write(address) };
        true
    }
}

impl ConfigAccess for Buses {
    fn extent(&self, function: Address) -> Extent {
        match self.place(function, 0) {
            Some(_) => Extent::Extended,
            None => Extent::Legacy,
        }
    }

    fn read(&mut self, function: Address, at: u16, width: Width) -> u32 {
        if let Some(place) = self.place(function, at) {
            return match width {
                // SAFETY: `place` is within a window that `map` mapped, and `at` within the function's 4 KiB.
                Width::Byte => unsafe { place.read_volatile() }.into(),
                // SAFETY: as above; `at` is a multiple of the width.
                Width::Word => unsafe { place.cast::<u16>().read_volatile() }.into(),
                // SAFETY: as above.
                Width::Dword => unsafe { place.cast::<u32>().read_volatile() },
            };
        }
        if !Self::select(function, at) {
            return u32::MAX;
        }
        let port = DATA_PORT + (at & 3);
        match width {
            // SAFETY: the data port of the register that was just named.
            Width::Byte => u32::from(unsafe { Port::<u8>::new(port).read() }),
            // SAFETY: as above.
            Width::Word => u32::from(unsafe { Port::<u16>::new(port).read() }),
            // SAFETY: as above.
            Width::Dword => unsafe { Port::<u32>::new(port).read() },
        }
    }

    fn write(&mut self, function: Address, at: u16, width: Width, value: u32) {
        if let Some(place) = self.place(function, at) {
            match width {
                // SAFETY: as for reading; what the write does to the function is the caller's argument.
                Width::Byte => unsafe { place.write_volatile(value as u8) },
                // SAFETY: as above.
                Width::Word => unsafe { place.cast::<u16>().write_volatile(value as u16) },
                // SAFETY: as above.
                Width::Dword => unsafe { place.cast::<u32>().write_volatile(value) },
            }
            return;
        }
        if !Self::select(function, at) {
            return;
        }
        let port = DATA_PORT + (at & 3);
        match width {
            // SAFETY: the data port of the register that was just named.
            Width::Byte => unsafe { Port::new(port).write(value as u8) },
            // SAFETY: as above.
            Width::Word => unsafe { Port::new(port).write(value as u16) },
            // SAFETY: as above.
            Width::Dword => unsafe { Port::new(port).write(value) },
        }
    }
}
