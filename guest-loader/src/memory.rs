//! Guest memory as the loader sees it: where RAM lies ([`MemoryLayout`]), how the guest is told
//! ([`E820Entry`]) and how bytes get there ([`GuestMemory`]).
//!
//! RAM starts at address 0 and is contiguous up to 3 GiB; what remains continues at 4 GiB, so that the I/O APIC
//! and local APIC windows never cover RAM. `boot_area` says what the loader puts into the first MiB.

use alloc::vec::Vec;
use core::fmt;

use bulkhead_core::addr::{FRAME_SIZE, Gpa};
use bulkhead_core::platform;

use crate::boot_area;

/// A VM's RAM, writable while the VM is being built. RAM is zero before the loader runs.
pub trait GuestMemory {
    /// Bytes of RAM.
    fn size(&self) -> u64;

    /// Copies `bytes` to guest address `gpa`; all of the range must be RAM.
    ///
    /// # Errors
    /// [`OutOfRange`] where any part of the range is not RAM. Nothing is promised about the part that is.
    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> Result<(), OutOfRange>;
}

/// A write that does not lie in the guest's RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange {
    /// First byte of the refused write.
    pub gpa: Gpa,
    /// Its length in bytes.
    pub len: u64,
}

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes at guest address {} are not all RAM",
            self.len, self.gpa
        )
    }
}

impl core::error::Error for OutOfRange {}

/// A half-open range of guest physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpaRange {
    /// First byte.
    pub start: Gpa,
    /// First byte after the range.
    pub end: Gpa,
}

impl GpaRange {
    /// The `len` bytes from `start`, or `None` where they pass the end of the address space.
    #[must_use]
    pub const fn new(start: Gpa, len: u64) -> Option<Self> {
        match start.checked_add(len) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// Bytes in the range.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.end.0.saturating_sub(self.start.0)
    }

    /// Whether the range holds no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether `other` lies wholly inside.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Whether any byte is in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

impl fmt::Display for GpaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start.0, self.end.0)
    }
}

/// Type of an [`E820Entry`], with the numbers of ACPI 6.5, "Address Range Types" (the PVH memory map uses the same).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum E820Kind {
    /// RAM for the guest to use.
    Ram = 1,
    /// Not to be used.
    Reserved = 2,
    /// ACPI tables; RAM once the guest has read them.
    AcpiReclaimable = 3,
}

/// One range of the memory map the guest is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820Entry {
    /// The addresses.
    pub range: GpaRange,
    /// What they hold.
    pub kind: E820Kind,
}

/// Where a VM's RAM lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLayout {
    size: u64,
}

impl MemoryLayout {
    /// Least RAM a VM can have: the first MiB, which the loader uses, and one for the image.
    pub const MIN_SIZE: u64 = 2 << 20;
    /// Most RAM a VM can have.
    pub const MAX_SIZE: u64 = 1 << 40;

    /// The layout of a VM with `size` bytes of RAM.
    ///
    /// # Errors
    /// Where `size` is outside [`Self::MIN_SIZE`]`..=`[`Self::MAX_SIZE`] or not a whole number of 4 KiB pages.
    pub const fn new(size: u64) -> Result<Self, LayoutError> {
        if size < Self::MIN_SIZE {
            Err(LayoutError::TooSmall { size })
        } else if size > Self::MAX_SIZE {
            Err(LayoutError::TooLarge { size })
        } else if !size.is_multiple_of(FRAME_SIZE) {
            Err(LayoutError::PartialPage { size })
        } else {
            Ok(Self { size })
        }
    }

    /// Bytes of RAM.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// RAM below 4 GiB, from address 0.
    #[must_use]
    pub const fn low_ram(&self) -> GpaRange {
        let limit = platform::LOW_RAM_LIMIT.0;
        GpaRange {
            start: Gpa(0),
            end: Gpa(if self.size < limit { self.size } else { limit }),
        }
    }

    /// RAM from 4 GiB, where the VM has more than fits below.
    #[must_use]
    pub const fn high_ram(&self) -> Option<GpaRange> {
        let start = platform::HIGH_RAM_START;
        match self.size.saturating_sub(platform::LOW_RAM_LIMIT.0) {
            0 => None,
            len => GpaRange::new(start, len),
        }
    }

    /// Every range of RAM, in ascending order.
    pub fn ram_ranges(&self) -> impl Iterator<Item = GpaRange> {
        core::iter::once(self.low_ram()).chain(self.high_ram())
    }

    /// The memory map for the guest: ascending, without overlap, and never calling something RAM that is not.
    #[must_use]
    pub fn e820(&self) -> Vec<E820Entry> {
        let entry = |start: u64, end: u64, kind| E820Entry {
            range: GpaRange {
                start: Gpa(start),
                end: Gpa(end),
            },
            kind,
        };
        let acpi = boot_area::ACPI_TABLES;
        let window =
            |base: Gpa, size: u64| entry(base.0, base.0.saturating_add(size), E820Kind::Reserved);
        let mut map = Vec::with_capacity(9);
        map.extend([
            entry(0, boot_area::LEGACY_HOLE.start.0, E820Kind::Ram),
            entry(
                boot_area::LEGACY_HOLE.start.0,
                acpi.start.0,
                E820Kind::Reserved,
            ),
            E820Entry {
                range: acpi,
                kind: E820Kind::AcpiReclaimable,
            },
            entry(acpi.end.0, boot_area::LEGACY_HOLE.end.0, E820Kind::Reserved),
            entry(
                boot_area::LEGACY_HOLE.end.0,
                self.low_ram().end.0,
                E820Kind::Ram,
            ),
            window(platform::ECAM_BASE, platform::ECAM_SIZE),
            window(platform::IOAPIC_BASE, platform::IOAPIC_SIZE),
            window(platform::LAPIC_BASE, platform::LAPIC_SIZE),
        ]);
        map.extend(self.high_ram().map(|range| E820Entry {
            range,
            kind: E820Kind::Ram,
        }));
        map
    }
}

/// A memory size no VM can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// Less than [`MemoryLayout::MIN_SIZE`].
    TooSmall {
        /// The size asked for, in bytes.
        size: u64,
    },
    /// More than [`MemoryLayout::MAX_SIZE`].
    TooLarge {
        /// The size asked for, in bytes.
        size: u64,
    },
    /// Not a multiple of 4 KiB.
    PartialPage {
        /// The size asked for, in bytes.
        size: u64,
    },
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall { size } => write!(
                f,
                "VM memory of {size} bytes is too small: give it at least {} bytes",
                MemoryLayout::MIN_SIZE
            ),
            Self::TooLarge { size } => write!(
                f,
                "VM memory of {size} bytes is too large: give it at most {} bytes",
                MemoryLayout::MAX_SIZE
            ),
            Self::PartialPage { size } => {
                write!(
                    f,
                    "VM memory of {size} bytes is not a whole number of pages: round it to a multiple of 4096"
                )
            }
        }
    }
}

impl core::error::Error for LayoutError {}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [u64; 8] = [
        2 << 20,
        16 << 20,
        512 << 20,
        (3 << 30) - 4096,
        3 << 30,
        (3 << 30) + 4096,
        8 << 30,
        1 << 40,
    ];

    #[test]
    fn e820_ascends_without_overlap() {
        for size in SIZES {
            let map = MemoryLayout::new(size).unwrap().e820();
            for pair in map.windows(2) {
                assert!(
                    pair[0].range.end <= pair[1].range.start,
                    "{pair:?} of {size:#x}"
                );
            }
            assert!(map.iter().all(|entry| !entry.range.is_empty()));
        }
    }

    #[test]
    fn e820_ram_and_legacy_hole_cover_exactly_the_ram_there_is() {
        for size in SIZES {
            let layout = MemoryLayout::new(size).unwrap();
            let backed: u64 = layout
                .e820()
                .iter()
                .filter(|entry| layout.ram_ranges().any(|ram| ram.contains(&entry.range)))
                .map(|entry| entry.range.len())
                .sum();
            assert_eq!(backed, size);
            assert_eq!(layout.ram_ranges().map(|ram| ram.len()).sum::<u64>(), size);
        }
    }

    #[test]
    fn e820_calls_nothing_ram_that_is_not() {
        for size in SIZES {
            let layout = MemoryLayout::new(size).unwrap();
            for entry in layout
                .e820()
                .iter()
                .filter(|entry| entry.kind != E820Kind::Reserved)
            {
                assert!(
                    layout.ram_ranges().any(|ram| ram.contains(&entry.range)),
                    "{entry:?}"
                );
            }
        }
    }

    #[test]
    fn e820_reserves_the_configuration_window_and_leaves_bars_room() {
        let map = MemoryLayout::new(8 << 30).unwrap().e820();
        let ecam = GpaRange::new(platform::ECAM_BASE, platform::ECAM_SIZE).unwrap();
        let bars = GpaRange::new(platform::PCI_MMIO_BASE, platform::PCI_MMIO_SIZE).unwrap();
        assert!(map.contains(&E820Entry {
            range: ecam,
            kind: E820Kind::Reserved
        }));
        assert!(map.iter().all(|entry| !entry.range.overlaps(&bars)));
    }

    #[test]
    fn ram_below_640_kib_is_usable_so_that_processors_can_be_started_there() {
        for size in SIZES {
            let map = MemoryLayout::new(size).unwrap().e820();
            assert_eq!(map[0].range, GpaRange::new(Gpa(0), 0xa_0000).unwrap());
            assert_eq!(map[0].kind, E820Kind::Ram);
        }
    }

    #[test]
    fn ram_beyond_three_gib_continues_at_four() {
        assert_eq!(MemoryLayout::new(3 << 30).unwrap().high_ram(), None);
        let layout = MemoryLayout::new((3 << 30) + 8192).unwrap();
        assert_eq!(layout.low_ram().end, Gpa(3 << 30));
        assert_eq!(layout.high_ram(), GpaRange::new(Gpa(4 << 30), 8192));
    }

    #[test]
    fn absurd_sizes_are_refused_with_the_bound() {
        assert_eq!(MemoryLayout::new(0), Err(LayoutError::TooSmall { size: 0 }));
        assert_eq!(
            MemoryLayout::new(u64::MAX),
            Err(LayoutError::TooLarge { size: u64::MAX })
        );
        let odd = MemoryLayout::new((2 << 20) + 1).unwrap_err();
        assert!(odd.to_string().contains("multiple of 4096"));
    }
}
