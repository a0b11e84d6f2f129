//! What a guest sees of a function it was given: a configuration space of its own, of which the hardware's is never
//! touched by the guest.
//!
//! Identity and sizes are the function's; base addresses, the command register and interrupts are the guest's to set,
//! and [`Effect`] says what the shell has to do about it. `layout` builds it: of the capabilities only power management,
//! MSI, MSI-X and PCI Express are there, and the space beyond 256 bytes is empty, so no guest sees ATS, PASID, virtual
//! functions or a vendor's own. The function looks like an endpoint of the root complex, without link or slot: those are
//! the host's.
//!
//! MSI-X vectors are in the function's memory: [`VirtualConfig::mappings`] leaves the pages with the table to be
//! trapped, because what the guest writes there is not what the hardware may hold.

mod layout;

use alloc::vec::Vec;
use core::fmt;

use crate::addr::{FRAME_SIZE, Gpa, Hpa};
use crate::device::pci::config::ConfigSpace;
use crate::pci::bar::{Bar, BarKind};
use crate::pci::capability::MsiX;
use crate::pci::inventory::Function;
use crate::pci::register::{self, Command};

pub use layout::NotADevice;
use layout::{Layout, MsiLayout};

/// What a write to configuration space asks of the shell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Effect {
    /// Nothing.
    Nothing,
    /// [`VirtualConfig::command`] changed: what decodes, and whether the function masters the bus.
    Command,
    /// A base address was written: [`VirtualConfig::mappings`] may be others.
    Bars,
    /// [`VirtualConfig::msi`] may be another.
    Msi,
    /// [`VirtualConfig::msix`] changed.
    MsiX,
    /// The guest resets its function. Everything else changed too, and is as when the VM started.
    Reset,
}

/// A message signalled interrupt as the guest set it up. There is one: the function offers no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MsiState {
    /// It is on.
    pub enabled: bool,
    /// It is to be held back.
    pub masked: bool,
    /// Where it is written to, in the guest's view.
    pub address: u64,
    /// What is written.
    pub data: u16,
}

/// The switches of MSI-X as the guest set them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MsiXState {
    /// It is on.
    pub enabled: bool,
    /// All vectors are masked.
    pub masked: bool,
}

/// How a guest reaches a part of a base address's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// By itself: whole pages of the function and of nobody else.
    Direct,
    /// Through the hypervisor, access by access: the MSI-X table is there, or less than a page.
    Trapped,
}

/// Memory of the function at a place of the guest's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Of which base address it is.
    pub bar: u8,
    /// Where the guest put it.
    pub gpa: Gpa,
    /// Where it is.
    pub hpa: Hpa,
    /// How much it is.
    pub bytes: u64,
    /// How it is reached.
    pub reach: Reach,
}

/// Ports of the function at a place of the guest's; they always trap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    /// Of which base address they are.
    pub bar: u8,
    /// The first in the guest.
    pub guest: u16,
    /// The first on the host.
    pub host: u16,
    /// How many.
    pub count: u16,
}

/// A base address cannot be where it was to be put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Misplaced {
    /// Which.
    pub bar: u8,
    /// Where it was to be.
    pub base: u64,
}

impl fmt::Display for Misplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bar, base } = self;
        write!(
            f,
            "base address {bar} cannot be at {base:#x}: it needs a multiple of its size that its register can hold"
        )
    }
}

impl core::error::Error for Misplaced {}

/// A passed-through function's configuration space, as its guest sees it.
#[derive(Clone, Debug)]
pub struct VirtualConfig {
    config: ConfigSpace,
    /// As when the VM starts.
    initial: ConfigSpace,
    bars: Vec<Bar>,
    layout: Layout,
}

impl VirtualConfig {
    /// The space of `function`, with its base addresses at zero and decoding off.
    ///
    /// # Errors
    /// [`NotADevice`] for a bridge, which no guest gets.
    pub fn new(function: &Function) -> Result<Self, NotADevice> {
        let (config, layout) = layout::build(function)?;
        Ok(Self {
            initial: config.clone(),
            config,
            bars: function.bars.clone(),
            layout,
        })
    }

    /// Puts a base address where the guest's firmware would have.
    ///
    /// # Errors
    /// [`Misplaced`] where it cannot be there.
    pub fn place(&mut self, bar: u8, base: u64) -> Result<(), Misplaced> {
        let misplaced = Misplaced { bar, base };
        let found = self.bar(bar).ok_or(misplaced)?;
        let end = base.checked_add(found.size - 1).ok_or(misplaced)?;
        let highest = match found.kind {
            BarKind::Io => u16::MAX.into(),
            BarKind::Memory32 { .. } => u32::MAX.into(),
            BarKind::Memory64 { .. } => u64::MAX,
        };
        if !base.is_multiple_of(found.size) || end > highest {
            return Err(misplaced);
        }
        let kind = found.kind;
        for config in [&mut self.config, &mut self.initial] {
            layout::put_bar(config, bar, kind, base);
        }
        Ok(())
    }

    /// As when the VM started.
    pub fn restart(&mut self) {
        self.config.clone_from(&self.initial);
    }

    /// The guest reads `size` bytes (1, 2 or 4) at `at`. What crosses a register's end reads as all ones, what is not
    /// there as zero.
    #[must_use]
    pub fn read(&self, at: u16, size: u8) -> u32 {
        if within_register(at, size) {
            self.config.read(at, size)
        } else {
            u32::MAX >> (32 - 8 * u32::from(size.clamp(1, 4)))
        }
    }

    /// The guest writes `size` bytes (1, 2 or 4) at `at`.
    pub fn write(&mut self, at: u16, size: u8, value: u32) -> Effect {
        if !within_register(at, size) {
            return Effect::Nothing;
        }
        if self.layout.resets(at, size, value) {
            self.restart();
            return Effect::Reset;
        }
        let register = at & !3;
        let before = self.config.read(register, 4);
        self.config.write(at, size, value);
        if self.config.read(register, 4) == before {
            return Effect::Nothing;
        }
        self.layout.effect(register)
    }

    /// The command register's bits that the guest set.
    #[must_use]
    pub fn command(&self) -> Command {
        Command::from_bits_truncate(self.config.u16(register::COMMAND))
    }

    /// The base addresses, with the host's places.
    #[must_use]
    pub fn bars(&self) -> &[Bar] {
        &self.bars
    }

    fn bar(&self, index: u8) -> Option<&Bar> {
        self.bars.iter().find(|bar| bar.index == index)
    }

    /// Where the guest put a base address.
    fn place_of(&self, bar: &Bar) -> u64 {
        let at = register::BAR0 + 4 * bar.index;
        let low = self.config.u32(at);
        let high = match bar.kind {
            BarKind::Memory64 { .. } => self.config.u32(at + 4),
            BarKind::Io | BarKind::Memory32 { .. } => 0,
        };
        // Below the size the register holds only what says the kind.
        (u64::from(low) | u64::from(high) << 32) & !(bar.size - 1)
    }

    /// The memory that decodes now, page by page where pages differ. A base address that would wrap decodes nothing, and
    /// neither does one that the firmware gave no place. The guest chose the places: what is not in its window for devices
    /// is not to be mapped. The device chose where it says it is: whether that is a device's memory is the ledger's to say.
    #[must_use]
    pub fn mappings(&self) -> Vec<Mapping> {
        if self.command().contains(Command::MEMORY) {
            self.memory()
        } else {
            Vec::new()
        }
    }

    /// The memory that would decode, were decoding on.
    #[must_use]
    pub fn memory(&self) -> Vec<Mapping> {
        let mut mappings = Vec::new();
        let placed = |bar: &&Bar| bar.kind.is_memory() && bar.base != 0;
        for bar in self.bars.iter().filter(placed) {
            let base = self.place_of(bar);
            let ends = [base.checked_add(bar.size), bar.base.checked_add(bar.size)];
            if ends.contains(&None) {
                continue;
            }
            for (from, to, reach) in self.parts(bar) {
                if from < to {
                    mappings.push(Mapping {
                        bar: bar.index,
                        gpa: Gpa(base + from),
                        hpa: Hpa(bar.base + from),
                        bytes: to - from,
                        reach,
                    });
                }
            }
        }
        mappings
    }

    /// A base address's memory divided by how it is reached: before, at and after the pages of the MSI-X table.
    fn parts(&self, bar: &Bar) -> [(u64, u64, Reach); 3] {
        let size = bar.size;
        let (from, to) = if size < FRAME_SIZE || !bar.base.is_multiple_of(FRAME_SIZE) {
            (0, size)
        } else {
            match self.table_pages() {
                Some((index, from, to)) if index == bar.index => (from, to),
                _ => (size, size),
            }
        };
        [
            (0, from, Reach::Direct),
            (from, to, Reach::Trapped),
            (to, size, Reach::Direct),
        ]
    }

    /// The base address and the range of pages in it that hold the MSI-X table.
    fn table_pages(&self) -> Option<(u8, u64, u64)> {
        let MsiX { table, .. } = self.layout.msix.as_ref()?.1;
        let (from, to) = self.table()?;
        let from = from & !(FRAME_SIZE - 1);
        Some((table.bar, from, to.next_multiple_of(FRAME_SIZE)))
    }

    /// Where in its base address the MSI-X table begins and ends. `layout` showed it only where it fits.
    fn table(&self) -> Option<(u64, u64)> {
        let (_, msix) = self.layout.msix?;
        let from = u64::from(msix.table.offset);
        Some((from, from + layout::table_bytes(&msix)))
    }

    /// The ports that decode now.
    #[must_use]
    pub fn ports(&self) -> Vec<Ports> {
        let on = self.command().contains(Command::IO);
        let placed = |bar: &&Bar| on && !bar.kind.is_memory() && bar.base != 0;
        let bars = self.bars.iter().filter(placed);
        let ports = bars.filter_map(|bar| {
            let count = u16::try_from(bar.size).ok()?;
            let guest = u16::try_from(self.place_of(bar)).ok()?;
            let host = u16::try_from(bar.base).ok()?;
            guest.checked_add(count - 1)?;
            host.checked_add(count - 1)?;
            Some(Ports {
                bar: bar.index,
                guest,
                host,
                count,
            })
        });
        ports.collect()
    }

    /// The message signalled interrupt, where the function has one.
    #[must_use]
    pub fn msi(&self) -> Option<MsiState> {
        let MsiLayout { at, msi } = self.layout.msi?;
        let low = u64::from(self.config.u32(at + 4));
        let (high, data) = if msi.wide {
            (u64::from(self.config.u32(at + 8)), at + 12)
        } else {
            (0, at + 8)
        };
        Some(MsiState {
            enabled: self.config.u16(at + 2) & layout::MSI_ENABLE != 0,
            masked: msi.maskable && self.config.u32(data + 4) & 1 != 0,
            address: low | high << 32,
            data: self.config.u16(data),
        })
    }

    /// The switches of MSI-X, where the function has it.
    #[must_use]
    pub fn msix(&self) -> Option<MsiXState> {
        let (at, _) = self.layout.msix?;
        let control = self.config.u16(at + 2);
        Some(MsiXState {
            enabled: control & layout::MSIX_ENABLE != 0,
            masked: control & layout::MSIX_MASK_ALL != 0,
        })
    }

    /// Where the MSI-X table is: the base address and the range of bytes in it.
    #[must_use]
    pub fn msix_table(&self) -> Option<(u8, core::ops::Range<u64>)> {
        let (_, msix) = self.layout.msix?;
        let (from, to) = self.table()?;
        Some((msix.table.bar, from..to))
    }
}

/// Whether an access is one of 1, 2 or 4 bytes within four aligned ones.
const fn within_register(at: u16, size: u8) -> bool {
    matches!(size, 1 | 2 | 4) && at % 4 + size as u16 <= 4
}
