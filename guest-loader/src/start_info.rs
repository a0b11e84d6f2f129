//! The PVH start information ("x86/HVM direct boot ABI", `struct hvm_start_info`, version 1): what an ELF or flat guest
//! learns about its memory, modules, command line and ACPI tables.

use alloc::vec::Vec;

use bulkhead_core::addr::Gpa;

use crate::acpi::RsdpAddress;
use crate::boot_area;
use crate::memory::{E820Entry, GpaRange, GuestMemory, OutOfRange};

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
const HEADER_SIZE: u64 = 56;
const MODULE_SIZE: u64 = 32;

/// Longest command line, without its terminating zero, that fits where the loader puts it.
pub(crate) const CMDLINE_MAX: u64 = boot_area::CMDLINE.len() - 1;

/// Writes the start information, its module list and its memory map.
pub(crate) fn write(
    map: &[E820Entry],
    initrd: Option<GpaRange>,
    cmdline: Gpa,
    rsdp: RsdpAddress,
    mem: &mut dyn GuestMemory,
) -> Result<(), OutOfRange> {
    mem.write(
        boot_area::START_INFO.start,
        &encode(map, initrd, cmdline, rsdp),
    )
}

/// Header, then the module list, then the memory map, one after the other.
fn encode(map: &[E820Entry], initrd: Option<GpaRange>, cmdline: Gpa, rsdp: RsdpAddress) -> Vec<u8> {
    let modules = boot_area::START_INFO.start.0 + HEADER_SIZE;
    let memmap = modules + if initrd.is_some() { MODULE_SIZE } else { 0 };

    let mut bytes = Vec::new();
    let mut u32 = |value: u32| bytes.extend(value.to_le_bytes());
    u32(MAGIC);
    u32(VERSION);
    u32(0);
    u32(initrd.iter().len() as u32);
    let mut u64 = |value: u64| bytes.extend(value.to_le_bytes());
    u64(if initrd.is_some() { modules } else { 0 });
    u64(cmdline.0);
    u64(rsdp.0.0);
    u64(memmap);
    u64(map.len() as u64 & 0xffff_ffff);
    if let Some(initrd) = initrd {
        u64(initrd.start.0);
        u64(initrd.len());
        u64(0);
        u64(0);
    }
    for entry in map {
        u64(entry.range.start.0);
        u64(entry.range.len());
        u64(entry.kind as u64);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Fields;
    use crate::memory::MemoryLayout;

    #[test]
    fn start_info_points_to_its_module_and_map() {
        let map = MemoryLayout::new(64 << 20).unwrap().e820();
        let initrd = GpaRange::new(Gpa(0x300_0000), 0x1234);
        let bytes = encode(&map, initrd, Gpa(0xa000), RsdpAddress(Gpa(0xe_0000)));
        let bytes = bytes.as_slice();
        let base = boot_area::START_INFO.start.0;

        assert_eq!(bytes.u32(0), Some(MAGIC));
        assert_eq!(bytes.u32(4), Some(1));
        assert_eq!(bytes.u32(12), Some(1));
        let module = (bytes.u64(16).unwrap() - base) as usize;
        assert_eq!(
            (bytes.u64(module), bytes.u64(module + 8)),
            (Some(0x300_0000), Some(0x1234))
        );
        assert_eq!(bytes.u64(24), Some(0xa000));
        assert_eq!(bytes.u64(32), Some(0xe_0000));
        let memmap = (bytes.u64(40).unwrap() - base) as usize;
        assert_eq!(bytes.u32(48), Some(map.len() as u32));
        assert_eq!(bytes.len(), memmap + 24 * map.len());
        assert_eq!(bytes.u32(memmap + 16), Some(1));
        assert!(bytes.len() as u64 <= boot_area::START_INFO.len());
    }

    #[test]
    fn start_info_without_initrd_has_no_module() {
        let bytes = encode(&[], None, Gpa(0), RsdpAddress(Gpa(0)));
        assert_eq!(bytes.as_slice().u32(12), Some(0));
        assert_eq!(bytes.as_slice().u64(16), Some(0));
        assert_eq!(bytes.len() as u64, HEADER_SIZE);
    }
}
