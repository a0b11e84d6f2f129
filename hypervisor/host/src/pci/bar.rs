//! Base addresses and how large what they decode is (PCI Local Bus Specification 3.0, "Base Addresses").
//!
//! A base address is sized by writing all ones: the bits that stay zero are the size. Meanwhile it decodes somewhere
//! else, so decoding is off from the first write to the last. Whoever draws on a screen, or logs through a card, must
//! not do so during an enumeration.

use alloc::vec::Vec;

use super::access::Config;
use super::inventory::Warning;
use super::register::{self, Command};

/// Bit 0 of a base address: it is in port space.
const IO_SPACE: u32 = 1;
/// Bits 1 and 2 of a memory base address: how wide it is.
const WIDTH: u32 = 3 << 1;
const WIDTH_32: u32 = 0;
/// Below 1 MiB, which only old devices ask for; 32 bits wide.
const WIDTH_20: u32 = 1 << 1;
const WIDTH_64: u32 = 2 << 1;
/// Bit 3 of a memory base address: reading has no side effect.
const PREFETCHABLE: u32 = 1 << 3;
const IO_ADDRESS: u32 = !3;
const MEMORY_ADDRESS: u32 = !0xf;
/// The address bits of an expansion ROM's base address.
const ROM_ADDRESS: u32 = !0x7ff;

/// What a base address decodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BarKind {
    /// Ports.
    Io,
    /// Memory below 4 GiB.
    Memory32 {
        /// Reading has no side effect.
        prefetchable: bool,
    },
    /// Memory anywhere; the register after it holds the upper half.
    Memory64 {
        /// Reading has no side effect.
        prefetchable: bool,
    },
}

impl BarKind {
    /// Whether it decodes memory.
    #[must_use]
    pub const fn is_memory(self) -> bool {
        !matches!(self, Self::Io)
    }

    /// The low bits of the register, which say the kind.
    #[must_use]
    pub const fn bits(self) -> u32 {
        let (width, prefetchable) = match self {
            Self::Io => return IO_SPACE,
            Self::Memory32 { prefetchable } => (WIDTH_32, prefetchable),
            Self::Memory64 { prefetchable } => (WIDTH_64, prefetchable),
        };
        if prefetchable {
            width | PREFETCHABLE
        } else {
            width
        }
    }
}

/// A base address that is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bar {
    /// Which of the registers it is; a 64-bit one also takes the next.
    pub index: u8,
    /// What it decodes.
    pub kind: BarKind,
    /// Where the firmware put it.
    pub base: u64,
    /// How much it decodes: a power of two.
    pub size: u64,
}

/// An expansion ROM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rom {
    /// Where the firmware put it.
    pub base: u32,
    /// How large it is: a power of two.
    pub size: u32,
}

/// The first `count` base addresses of a function and its ROM, whose register is `rom`; decoding is off meanwhile.
pub(super) fn size_all(
    config: &mut Config<'_>,
    count: u8,
    rom: u8,
    warnings: &mut Vec<Warning>,
) -> (Vec<Bar>, Option<Rom>) {
    let command = config.u16(register::COMMAND);
    let decoding = (Command::IO | Command::MEMORY).bits();
    config.set_u16(register::COMMAND, command & !decoding);
    let mut bars = Vec::new();
    let mut index = 0;
    while index < count {
        let (bar, next) = size_one(config, index, count, warnings);
        bars.extend(bar);
        index = next;
    }
    let rom = size_rom(config, rom);
    config.set_u16(register::COMMAND, command);
    (bars, rom)
}

/// Writes `probe` to a register, reads what stuck, and puts `original` back.
fn probe(config: &mut Config<'_>, at: u8, original: u32, probe: u32) -> u32 {
    config.set_u32(at, probe);
    let mask = config.u32(at);
    config.set_u32(at, original);
    mask
}

/// The base address `index`, if it is there and makes sense, and the index of the one after it.
fn size_one(
    config: &mut Config<'_>,
    index: u8,
    count: u8,
    warnings: &mut Vec<Warning>,
) -> (Option<Bar>, u8) {
    let at = register::BAR0 + 4 * index;
    let original = config.u32(at);
    let low = probe(config, at, original, u32::MAX);
    let function = config.function();
    let mut odd = || warnings.push(Warning::Bar { function, index });
    let bar = |kind, base, mask: u64| {
        // The lowest bit that can be set is the size; all above it can be set too.
        let size = mask & mask.wrapping_neg();
        let contiguous = mask == size.wrapping_neg();
        contiguous.then_some(Bar {
            index,
            kind,
            base,
            size,
        })
    };
    if low == 0 {
        return (None, index + 1);
    }
    if low & IO_SPACE != 0 {
        // Ports have 16 bits; a device need not have the upper half of the register.
        let mask = low & IO_ADDRESS | 0xffff_0000;
        let found = if low & IO_ADDRESS == 0 {
            None
        } else {
            bar(
                BarKind::Io,
                (original & IO_ADDRESS).into(),
                u64::from(mask) | 0xffff_ffff << 32,
            )
        };
        if found.is_none() {
            odd();
        }
        return (found, index + 1);
    }
    let prefetchable = low & PREFETCHABLE != 0;
    let base = u64::from(original & MEMORY_ADDRESS);
    let mask = u64::from(low & MEMORY_ADDRESS);
    let (found, next) = match low & WIDTH {
        WIDTH_32 | WIDTH_20 => {
            let kind = BarKind::Memory32 { prefetchable };
            let found = if mask == 0 {
                None
            } else {
                bar(kind, base, mask | 0xffff_ffff << 32)
            };
            (found, index + 1)
        }
        WIDTH_64 if index + 1 < count => {
            let above = config.u32(at + 4);
            let high = probe(config, at + 4, above, u32::MAX);
            let kind = BarKind::Memory64 { prefetchable };
            let base = base | u64::from(above) << 32;
            let mask = mask | u64::from(high) << 32;
            let found = if mask == 0 {
                None
            } else {
                bar(kind, base, mask)
            };
            (found, index + 2)
        }
        _ => (None, index + 1),
    };
    if found.is_none() {
        odd();
    }
    (found, next)
}

fn size_rom(config: &mut Config<'_>, at: u8) -> Option<Rom> {
    let original = config.u32(at);
    let mask = probe(config, at, original, ROM_ADDRESS) & ROM_ADDRESS;
    let size = mask & mask.wrapping_neg();
    (mask != 0 && mask == size.wrapping_neg()).then_some(Rom {
        base: original & ROM_ADDRESS,
        size,
    })
}
