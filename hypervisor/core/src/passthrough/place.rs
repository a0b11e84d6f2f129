//! Where in a VM the base addresses of its real functions are, and how what they decode is reached.
//!
//! Each base address has a home: in the window between low RAM and the VM's own devices where it fits, and above all RAM
//! otherwise, if it has 64 bits. What is less than a page gets pages of its own all the same, which trap. Homes do not
//! change: the guest's tables are built once.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use super::VirtualConfig;
use super::virtual_config::{Mapping, Reach};
use crate::addr::{FRAME_SIZE, Frame, FrameCount, Gpa};
use crate::ledger::FrameRun;
use crate::order;
use crate::pci::bar::{Bar, BarKind};
use crate::pci::{Address, Function, Inventory};
use crate::platform::{DEVICE_MMIO_BASE, DEVICE_MMIO_SIZE};

/// Where the upper window begins and ends at multiples of this.
const HIGH_ALIGN: u64 = 1 << 21;

/// Why a VM cannot have a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlaceError {
    /// The firmware gave a base address no place.
    Unplaced {
        /// The device.
        function: Address,
        /// Which base address.
        bar: u8,
    },
    /// There is no room left for a base address.
    NoRoom {
        /// The device.
        function: Address,
        /// Which base address.
        bar: u8,
        /// How much it needs.
        size: u64,
    },
    /// A base address is where something else is.
    Overlaps {
        /// The device.
        function: Address,
        /// Which base address.
        bar: u8,
        /// The other function; none where it is the processors' or the chipset's.
        other: Option<Address>,
    },
}

impl fmt::Display for PlaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unplaced { function, bar } => write!(
                f,
                "the firmware gave base address {bar} of {function} no place, so no VM can have the device; \
                 enable it in the firmware's setup"
            ),
            Self::NoRoom {
                function,
                bar,
                size,
            } => write!(
                f,
                "base address {bar} of {function}, {size:#x} bytes, has no room in the VM; give it fewer devices"
            ),
            Self::Overlaps {
                function,
                bar,
                other: Some(other),
            } => write!(
                f,
                "base address {bar} of {function} overlaps one of {other}: the device or the firmware is broken"
            ),
            Self::Overlaps {
                function,
                bar,
                other: None,
            } => write!(
                f,
                "base address {bar} of {function} is where interrupt controllers and the chipset are: the device is broken"
            ),
        }
    }
}

impl core::error::Error for PlaceError {}

/// Memory of a function that its guest reaches by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Direct {
    /// Where the guest finds it.
    pub gpa: Gpa,
    /// Where it is.
    pub run: FrameRun,
}

/// Where the guest finds its functions' memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Places {
    /// What is mapped, uncacheable, readable and writable.
    pub direct: Vec<Direct>,
    /// The window above RAM, where one is needed: the guest has to be told of it.
    pub high: Option<Range<Gpa>>,
}

/// Whether what a function decodes is its own: a device says by itself where it is, and may lie.
///
/// # Errors
/// [`PlaceError::Overlaps`].
pub fn check_apart(inventory: &Inventory, function: &Function) -> Result<(), PlaceError> {
    /// I/O APICs, HPET, TPM, local APICs, and the firmware's flash below 4 GiB.
    const CHIPSET: Range<u64> = 0xfec0_0000..0x1_0000_0000;
    let span = |bar: &Bar| bar.base..bar.base.saturating_add(bar.size);
    let meet = |one: &Range<u64>, two: &Range<u64>| one.start < two.end && two.start < one.end;
    for bar in function.bars.iter().filter(|bar| bar.kind.is_memory()) {
        let own = span(bar);
        let overlaps = |other| PlaceError::Overlaps {
            function: function.address,
            bar: bar.index,
            other,
        };
        if meet(&own, &CHIPSET) {
            return Err(overlaps(None));
        }
        let mut others = inventory.functions().iter();
        let other = others.find(|other| {
            let mut bars = other.bars.iter();
            other.address != function.address
                && bars.any(|bar| bar.kind.is_memory() && meet(&own, &span(bar)))
        });
        if let Some(other) = other {
            return Err(overlaps(Some(other.address)));
        }
    }
    Ok(())
}

/// Gives each base address of `functions` its home, in a VM whose RAM ends below `ram_end` and whose addresses end at
/// `limit`.
///
/// # Errors
/// [`PlaceError`].
pub fn place(
    functions: &mut [(Address, VirtualConfig)],
    ram_end: Gpa,
    limit: Gpa,
) -> Result<Places, PlaceError> {
    let mut bars: Vec<(usize, Address, Bar)> = Vec::new();
    for (index, (address, config)) in functions.iter().enumerate() {
        let memory = config.bars().iter().filter(|bar| bar.kind.is_memory());
        bars.extend(memory.map(|bar| (index, *address, *bar)));
    }
    // Those that can be nowhere else first, and of each sort the largest, which leave no gaps.
    order::sort_by_key(&mut bars, |(_, _, bar)| {
        let wide = matches!(bar.kind, BarKind::Memory64 { .. });
        (wide, core::cmp::Reverse(bar.size))
    });
    let start = ram_end.0.checked_next_multiple_of(HIGH_ALIGN);
    let high_base = start.unwrap_or(u64::MAX).max(1 << 32);
    let mut low = Window::new(DEVICE_MMIO_BASE.0, DEVICE_MMIO_BASE.0 + DEVICE_MMIO_SIZE);
    let mut high = Window::new(high_base, limit.0);
    for (index, function, bar) in bars {
        let Bar {
            index: number,
            kind,
            base,
            size,
        } = bar;
        let no_room = PlaceError::NoRoom {
            function,
            bar: number,
            size,
        };
        if base == 0 {
            return Err(PlaceError::Unplaced {
                function,
                bar: number,
            });
        }
        let room = size.max(FRAME_SIZE);
        let home = match kind {
            BarKind::Memory64 { .. } => low.take(room).or_else(|| high.take(room)),
            BarKind::Io | BarKind::Memory32 { .. } => low.take(room),
        };
        let home = home.ok_or(no_room)?;
        let (_, config) = functions.get_mut(index).ok_or(no_room)?;
        config.place(number, home).map_err(|_| no_room)?;
    }
    let high = match high.next.checked_next_multiple_of(HIGH_ALIGN) {
        _ if high.next == high_base => None,
        end => Some(Gpa(high_base)..Gpa(end.unwrap_or(limit.0).min(limit.0))),
    };
    let direct = functions.iter().flat_map(|(_, config)| direct(config));
    Ok(Places {
        direct: direct.collect(),
        high,
    })
}

/// What the guest reaches by itself of a function whose base addresses are at home.
fn direct(config: &VirtualConfig) -> impl Iterator<Item = Direct> {
    let all = config.memory().into_iter();
    all.filter_map(
        |Mapping {
             gpa,
             hpa,
             bytes,
             reach,
             ..
         }| {
            let whole = [gpa.0, hpa.0, bytes]
                .iter()
                .all(|value| value.is_multiple_of(FRAME_SIZE));
            (reach == Reach::Direct && whole).then(|| Direct {
                gpa,
                run: FrameRun::new(Frame::containing(hpa), FrameCount(bytes / FRAME_SIZE)),
            })
        },
    )
}

/// Addresses that are handed out upwards.
struct Window {
    next: u64,
    end: u64,
}

impl Window {
    const fn new(next: u64, end: u64) -> Self {
        Self { next, end }
    }

    /// The next `size` addresses, a power of two, at a multiple of that.
    fn take(&mut self, size: u64) -> Option<u64> {
        let at = self.next.checked_next_multiple_of(size)?;
        let end = at.checked_add(size).filter(|end| *end <= self.end)?;
        self.next = end;
        Some(at)
    }
}
