//! What the guest is told at its start: the PVH start information's command line and memory map.
#![allow(unsafe_code, reason = "reads structures the loader left in memory")]

use core::ffi::CStr;

const MAGIC: u32 = 0x336e_c578;
const CMDLINE_OFFSET: u64 = 24;
const RSDP_OFFSET: u64 = 32;
const MEMMAP_OFFSET: u64 = 40;
const MEMMAP_COUNT_OFFSET: u64 = 48;
const MEMMAP_ENTRY_SIZE: u64 = 24;
const MEMMAP_RAM: u32 = 1;

/// The start information, read.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    cmdline: &'static str,
    ram_end: u64,
    rsdp: u64,
}

impl Params {
    /// Reads the start information at `start_info`.
    ///
    /// # Panics
    /// Where its magic number is not there: then no entry protocol was followed.
    #[must_use]
    pub fn read(start_info: u64) -> Self {
        assert!(
            peek::<u32>(start_info) == MAGIC,
            "no start information at {start_info:#x}"
        );
        let cmdline = match peek::<u64>(start_info + CMDLINE_OFFSET) {
            0 => "",
            // SAFETY: the start information's command line is a zero-terminated string that nothing overwrites.
            at => unsafe { CStr::from_ptr(at as *const _) }
                .to_str()
                .unwrap_or(""),
        };
        let memmap = peek::<u64>(start_info + MEMMAP_OFFSET);
        let count = u64::from(peek::<u32>(start_info + MEMMAP_COUNT_OFFSET));
        let ram_end = (0..count)
            .map(|n| memmap + n * MEMMAP_ENTRY_SIZE)
            .filter(|&entry| peek::<u32>(entry + 16) == MEMMAP_RAM)
            .map(|entry| peek::<u64>(entry) + peek::<u64>(entry + 8))
            .max()
            .unwrap_or(0);
        Self {
            cmdline,
            ram_end,
            rsdp: peek::<u64>(start_info + RSDP_OFFSET),
        }
    }

    /// The value of `key=value` on the command line.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'static str> {
        let mut words = self.cmdline.split_ascii_whitespace();
        words
            .find_map(|word| word.split_once('=').filter(|(name, _)| *name == key))
            .map(|(_, value)| value)
    }

    /// The value of `key=0x…` on the command line.
    #[must_use]
    pub fn hex(&self, key: &str) -> Option<u64> {
        let value = self.get(key)?;
        u64::from_str_radix(value.strip_prefix("0x").unwrap_or(value), 16).ok()
    }

    /// The value of `key=…` on the command line: decimal, or hexadecimal after `0x`.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        let value = self.get(key)?;
        match value.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => value.parse().ok(),
        }
    }

    /// Where the ACPI tables begin.
    #[must_use]
    pub const fn rsdp(&self) -> u64 {
        self.rsdp
    }

    /// First byte after the highest RAM.
    #[must_use]
    pub const fn ram_end(&self) -> u64 {
        self.ram_end
    }
}

/// Reads a value of the start information or of an ACPI table.
pub(crate) fn peek<T: Copy>(address: u64) -> T {
    // SAFETY: the loader promises these structures and what they point to; the first 4 GiB are mapped.
    unsafe { (address as *const T).read_unaligned() }
}
