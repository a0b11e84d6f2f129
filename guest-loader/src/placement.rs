//! Finds room for the kernel and the initrd, and refuses what does not fit: nothing the loader places overlaps.
//!
//! Images go above the first MiB (which `boot_area` divides up) and below 3 GiB, where every entry protocol reaches.

use core::fmt;

use bulkhead_core::addr::{FRAME_SIZE, Gpa};

use crate::boot_area;
use crate::memory::{GpaRange, MemoryLayout};

/// The RAM that images may occupy: from 1 MiB to the end of low RAM.
pub(crate) fn image_area(layout: &MemoryLayout) -> GpaRange {
    GpaRange {
        start: boot_area::IMAGE_START,
        end: layout.low_ram().end,
    }
}

/// The lowest `align`-aligned place for `len` bytes in `area`; `align` is a power of two.
pub(crate) fn lowest_fit(area: GpaRange, len: u64, align: u64) -> Option<GpaRange> {
    let start = Gpa(area.start.0.checked_next_multiple_of(align)?);
    GpaRange::new(start, len).filter(|range| area.contains(range))
}

/// Places an initrd as high as the layout and `last_byte` (the kernel's own limit) allow, clear of `kernel`.
///
/// # Errors
/// Where the initrd is empty, or no page-aligned place is large enough.
pub(crate) fn place_initrd(
    len: u64,
    kernel: GpaRange,
    layout: &MemoryLayout,
    last_byte: u64,
) -> Result<GpaRange, InitrdError> {
    if len == 0 {
        return Err(InitrdError::Empty);
    }
    let area = image_area(layout);
    let end = Gpa(area.end.0.min(last_byte.saturating_add(1)));
    let above = GpaRange {
        start: Gpa(kernel.end.0.max(area.start.0)),
        end,
    };
    let below = GpaRange {
        start: area.start,
        end: Gpa(kernel.start.0.min(end.0)),
    };
    highest_fit(above, len)
        .or_else(|| highest_fit(below, len))
        .ok_or(InitrdError::NoRoom {
            len,
            largest_gap: above.len().max(below.len()),
            kernel,
            memory: layout.size(),
        })
}

/// The highest page-aligned place for `len` bytes in `area`.
fn highest_fit(area: GpaRange, len: u64) -> Option<GpaRange> {
    let start = Gpa(area.end.0.checked_sub(len)?).align_down(FRAME_SIZE);
    GpaRange::new(start, len).filter(|range| area.contains(range))
}

/// An initrd that cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitrdError {
    /// The file holds no byte.
    Empty,
    /// No gap in low RAM holds it.
    NoRoom {
        /// Its length in bytes.
        len: u64,
        /// The largest gap the kernel leaves, in bytes.
        largest_gap: u64,
        /// Where the kernel lies, with the room it claims to unpack itself.
        kernel: GpaRange,
        /// The VM's RAM in bytes.
        memory: u64,
    },
}

impl fmt::Display for InitrdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("initrd: the file is empty: name another one, or none"),
            Self::NoRoom {
                len,
                largest_gap,
                kernel,
                memory,
            } => write!(
                f,
                "initrd: {len} bytes do not fit beside the kernel at {kernel} (largest gap {largest_gap} bytes) in \
                 {memory} bytes of memory: give the VM more memory or use a smaller initrd"
            ),
        }
    }
}

impl core::error::Error for InitrdError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> GpaRange {
        GpaRange {
            start: Gpa(start),
            end: Gpa(end),
        }
    }

    #[test]
    fn initrd_goes_to_the_top_page_aligned() {
        let layout = MemoryLayout::new(64 << 20).unwrap();
        let placed = place_initrd(0x1801, range(16 << 20, 40 << 20), &layout, 0x7fff_ffff).unwrap();
        assert_eq!(placed, range(0x3ff_e000, 0x3ff_f801));
    }

    #[test]
    fn initrd_goes_below_a_kernel_that_leaves_no_room_above() {
        let layout = MemoryLayout::new(64 << 20).unwrap();
        let placed = place_initrd(8 << 20, range(32 << 20, 63 << 20), &layout, u64::MAX).unwrap();
        assert_eq!(placed.end, Gpa(32 << 20));
    }

    #[test]
    fn initrd_respects_the_kernels_limit() {
        let layout = MemoryLayout::new(3 << 30).unwrap();
        let placed = place_initrd(4096, range(16 << 20, 40 << 20), &layout, 0x37ff_ffff).unwrap();
        assert_eq!(placed.end, Gpa(0x3800_0000));
    }

    #[test]
    fn initrd_without_room_is_refused_with_the_largest_gap() {
        let layout = MemoryLayout::new(64 << 20).unwrap();
        let kernel = range(16 << 20, 40 << 20);
        let error = place_initrd(25 << 20, kernel, &layout, u64::MAX).unwrap_err();
        assert_eq!(
            error,
            InitrdError::NoRoom {
                len: 25 << 20,
                largest_gap: 24 << 20,
                kernel,
                memory: 64 << 20
            }
        );
        assert!(place_initrd(u64::MAX, kernel, &layout, u64::MAX).is_err());
        assert_eq!(
            place_initrd(0, kernel, &layout, u64::MAX),
            Err(InitrdError::Empty)
        );
    }

    #[test]
    fn lowest_fit_aligns_and_stays_inside() {
        let area = range(0x10_0000, 0x80_0000);
        assert_eq!(
            lowest_fit(area, 0x20_0000, 0x20_0000),
            Some(range(0x20_0000, 0x40_0000))
        );
        assert_eq!(lowest_fit(area, 0x70_0000, 0x20_0000), None);
        assert_eq!(lowest_fit(area, 1, 1 << 63), None);
    }
}
