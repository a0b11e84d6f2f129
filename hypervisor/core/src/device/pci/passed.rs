//! A real function on the bus: its configuration space is [`VirtualConfig`]'s, and what follows from what the guest writes
//! there goes to its [`Hardware`]. What [`crate::passthrough`] is about meets here. Its ports, if it has any, reach nothing.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use super::Outcome;
use crate::addr::{Gpa, Hpa};
use crate::passthrough::vectors::{CONTROL, ENTRY_BYTES, MASKED, VectorTable};
use crate::passthrough::virtual_config::{Effect, Mapping, Reach};
use crate::passthrough::{GuestMessage, Hardware, Signalling, VirtualConfig};
use crate::pci::register::Command;

/// A real function as its VM has it.
pub struct Passed {
    config: VirtualConfig,
    hardware: Box<dyn Hardware>,
    /// Memory that traps, where it was placed.
    homes: Vec<Mapping>,
    /// That part of it which decodes.
    trapped: Vec<Mapping>,
    table: Option<Table>,
    /// What the hardware was told last.
    told: Told,
    /// The guest resets the function.
    resetting: bool,
}

/// The MSI-X table, the guest's and the function's.
struct Table {
    guest: VectorTable,
    /// Where the function's is.
    at: Hpa,
    /// Which vectors the function may send.
    open: Vec<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Told {
    master: bool,
    signalling: Signalling,
    /// Where the one message of MSI goes, if anywhere.
    message: Option<GuestMessage>,
}

impl Told {
    const RESET: Self = Self {
        master: false,
        signalling: Signalling::Off,
        message: None,
    };
}

impl Passed {
    /// The function of `config`, whose base addresses were [placed](crate::passthrough::place()), on `hardware`.
    #[must_use]
    pub fn new(config: VirtualConfig, hardware: Box<dyn Hardware>) -> Self {
        let all = config.memory().into_iter();
        let homes: Vec<_> = all.filter(|part| part.reach == Reach::Trapped).collect();
        let table = config.msix_table().and_then(|(bar, range)| {
            let base = config.bars().iter().find(|found| found.index == bar)?.base;
            let count = (range.end - range.start) / ENTRY_BYTES;
            Some(Table {
                guest: VectorTable::new(count as u16),
                // Without a place it is nowhere, and nothing leads to it.
                at: Hpa(base.checked_add(range.start).filter(|_| base != 0)?),
                open: vec![false; count as usize],
            })
        });
        Self {
            config,
            hardware,
            homes,
            trapped: Vec::new(),
            table,
            told: Told::RESET,
            resetting: false,
        }
    }

    /// As when the VM started; the hardware is reset, and its VM's domain has it.
    pub fn restart(&mut self) {
        self.config.restart();
        self.begin_anew();
    }

    /// The hardware is as after a reset: every vector is masked.
    fn begin_anew(&mut self) {
        self.resetting = false;
        self.told = Told::RESET;
        if let Some(table) = &mut self.table {
            table.guest.restart();
            table.open.fill(false);
            for number in 0..table.guest.count() {
                let at = Hpa(table.at.0 + u64::from(number) * ENTRY_BYTES + CONTROL);
                self.hardware.write(at, 4, MASKED.into());
            }
        }
        self.decode();
        self.tell();
    }

    /// The VM's run ended: the hardware does nothing more for it.
    pub fn disconnect(&mut self) {
        self.hardware.quiet();
        self.told = Told::RESET;
        self.trapped.clear();
    }

    /// Reads configuration space.
    #[must_use]
    pub fn read_config(&self, at: u16, size: u8) -> u32 {
        if self.resetting {
            return ones(size) as u32;
        }
        self.config.read(at, size)
    }

    /// Writes configuration space.
    pub fn write_config(&mut self, at: u16, size: u8, value: u32) -> Outcome {
        match self.config.write(at, size, value) {
            Effect::Nothing => {}
            Effect::Command | Effect::Bars => self.decode(),
            Effect::Msi | Effect::MsiX => {}
            Effect::Reset => return self.reset(),
        }
        self.tell();
        Outcome::Nothing
    }

    /// The guest resets its function, as often as it takes until that is done.
    fn reset(&mut self) -> Outcome {
        if !self.resetting {
            self.disconnect();
            self.resetting = true;
        }
        if !self.hardware.reset() {
            return Outcome::Again;
        }
        self.begin_anew();
        Outcome::Nothing
    }

    /// Works out what decodes: what is at home, while the command register lets it.
    fn decode(&mut self) {
        let now = self.config.mappings().into_iter();
        self.trapped = now.filter(|part| self.homes.contains(part)).collect();
    }

    /// Tells the hardware what the guest wants of it now, where that is not what it was told last.
    fn tell(&mut self) {
        if self.resetting {
            return;
        }
        let master = self.config.command().contains(Command::MASTER);
        if !master && self.told.master {
            self.hardware.set_master(false);
        }
        let msix = self.config.msix().filter(|msix| msix.enabled);
        let signalling = match msix {
            Some(msix) => Signalling::MsiX {
                masked: msix.masked,
            },
            None => self.one_message(),
        };
        if signalling != self.told.signalling {
            self.hardware.set_signalling(signalling);
        }
        if !matches!(signalling, Signalling::Msi { .. }) && self.told.message.take().is_some() {
            // The table's first vector has the same place.
            self.update(0..1);
        }
        if master && !self.told.master {
            self.hardware.set_master(true);
        }
        self.told.master = master;
        self.told.signalling = signalling;
    }

    /// What the guest wants of MSI.
    fn one_message(&mut self) -> Signalling {
        let Some(msi) = self.config.msi().filter(|msi| msi.enabled) else {
            return Signalling::Off;
        };
        let Some(wanted) = GuestMessage::new(msi.address, msi.data.into()) else {
            return Signalling::Off;
        };
        let same = self.told.message == Some(wanted);
        match (same, self.told.signalling) {
            (true, Signalling::Msi { message, .. }) => Signalling::Msi {
                message,
                masked: msi.masked,
            },
            _ => match self.hardware.route(0, wanted) {
                Some(message) => {
                    self.told.message = Some(wanted);
                    Signalling::Msi {
                        message,
                        masked: msi.masked,
                    }
                }
                None => Signalling::Off,
            },
        }
    }

    /// Has the function's table follow the guest's.
    fn update(&mut self, numbers: core::ops::Range<u16>) {
        let Some(table) = &mut self.table else {
            return;
        };
        // A function that uses its one message has no table's vector where that is routed.
        let first = u16::from(self.told.message.is_some());
        for number in numbers.start.max(first)..numbers.end {
            let Some(open) = table.open.get_mut(usize::from(number)) else {
                continue;
            };
            let at = table.at.0 + u64::from(number) * ENTRY_BYTES;
            let hardware = &mut self.hardware;
            let message = table.guest.message(number);
            let program = message.and_then(|message| hardware.route(number, message));
            match program {
                Some(program) if !*open => {
                    hardware.write(Hpa(at), 4, program.address.into());
                    hardware.write(Hpa(at + 4), 4, 0);
                    hardware.write(Hpa(at + 8), 4, program.data.into());
                    hardware.write(Hpa(at + CONTROL), 4, 0);
                    *open = true;
                }
                // What a vector is programmed with is the same wherever it goes.
                Some(_) => {}
                None if *open => {
                    hardware.write(Hpa(at + CONTROL), 4, MASKED.into());
                    *open = false;
                }
                None => {}
            }
        }
    }

    /// A read in memory space; `None` where the function does not decode it.
    #[must_use]
    pub fn read(&mut self, gpa: Gpa, size: u8) -> Option<u64> {
        let (at, in_table) = self.find(gpa, size)?;
        Some(match (at, in_table) {
            _ if self.resetting => ones(size),
            (_, Some(offset)) => self
                .table
                .as_ref()
                .map_or(0, |table| table.guest.read(offset, size)),
            (Some(at), None) => self.hardware.read(at, size) & ones(size),
            (None, None) => ones(size),
        })
    }

    /// A write in memory space; false where the function does not decode it.
    #[must_use]
    pub fn write(&mut self, gpa: Gpa, size: u8, value: u64) -> bool {
        let Some((at, in_table)) = self.find(gpa, size) else {
            return false;
        };
        match (at, in_table) {
            _ if self.resetting => {}
            (_, Some(offset)) => {
                let changed = self
                    .table
                    .as_mut()
                    .map(|table| table.guest.write(offset, size, value));
                self.update(changed.unwrap_or_default());
            }
            (Some(at), None) => self.hardware.write(at, size, value & ones(size)),
            (None, None) => {}
        }
        true
    }

    /// Where an access is: in the function's memory, if it is aligned and within what traps, and how far into the table,
    /// if any of it is there. `None` where the function does not decode it.
    fn find(&self, gpa: Gpa, size: u8) -> Option<(Option<Hpa>, Option<u64>)> {
        let holds = |part: &&Mapping| gpa.0.wrapping_sub(part.gpa.0) < part.bytes;
        let part = self.trapped.iter().find(holds)?;
        let offset = gpa.0 - part.gpa.0;
        let size = u64::from(size);
        let inside =
            size.is_power_of_two() && gpa.0.is_multiple_of(size) && part.bytes - offset >= size;
        let at = inside.then_some(Hpa(part.hpa.0 + offset));
        let in_table = self.table.as_ref().and_then(|table| {
            let from = part.hpa.0 + offset;
            let end = table.at.0 + u64::from(table.guest.count()) * ENTRY_BYTES;
            let touches = from < end && from + size > table.at.0;
            // What begins before the table is in none of its words.
            touches.then(|| from.wrapping_sub(table.at.0))
        });
        Some((at, in_table))
    }
}

/// What nobody answers reads as.
const fn ones(size: u8) -> u64 {
    let size = if size < 1 { 1 } else { size };
    match 8_u32.checked_sub(size as u32) {
        Some(rest) => u64::MAX >> (8 * rest),
        None => u64::MAX,
    }
}
