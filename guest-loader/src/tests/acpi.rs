//! ACPI tables as a guest walks them: from the RSDP, with every checksum and the numbers that drivers use.

use bulkhead_core::addr::Gpa;
use bulkhead_core::device::watchdog::Watchdog;

use super::support::TestMemory;
use crate::acpi::{self, RsdpAddress};
use crate::field::Fields;
use crate::{GpaRange, LoadError, PlatformDescription};

const FADT_FLAGS: u64 = 112;
const HW_REDUCED: u32 = 1 << 20;
const RESET_REG_SUP: u32 = 1 << 10;

pub(super) fn tables(apic_ids: &[u32]) -> Result<(TestMemory, u64), LoadError> {
    tables_with(apic_ids, &[])
}

fn tables_with(
    apic_ids: &[u32],
    device_windows: &[GpaRange],
) -> Result<(TestMemory, u64), LoadError> {
    let mut mem = TestMemory::new(2 << 20);
    let RsdpAddress(rsdp) = acpi::write(
        &PlatformDescription {
            vcpu_apic_ids: apic_ids,
            device_windows,
        },
        &mut mem,
    )?;
    Ok((mem, rsdp.0))
}

fn assert_sums_to_zero(bytes: &[u8]) {
    assert_eq!(
        bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)),
        0
    );
}

/// The tables the XSDT names, plus the DSDT, by signature.
pub(super) fn walk(mem: &TestMemory, rsdp: u64) -> Vec<(String, u64, u64)> {
    assert!(mem.at(rsdp).starts_with(b"RSD PTR "));
    assert_eq!(mem.u8(rsdp + 15), 2);
    assert_sums_to_zero(&mem.at(rsdp)[..20]);
    assert_sums_to_zero(&mem.at(rsdp)[..36]);
    let xsdt = mem.u64(rsdp + 24);
    let count = (u64::from(mem.u32(xsdt + 4)) - 36) / 8;
    let mut addresses: Vec<u64> = (0..count).map(|n| mem.u64(xsdt + 36 + 8 * n)).collect();
    addresses.insert(0, xsdt);
    let fadt = addresses
        .iter()
        .copied()
        .find(|&at| mem.at(at).starts_with(b"FACP"));
    addresses.push(mem.u64(fadt.unwrap() + 140));
    addresses
        .into_iter()
        .map(|at| {
            let len = u64::from(mem.u32(at + 4));
            assert_sums_to_zero(&mem.at(at)[..len as usize]);
            (
                String::from_utf8(mem.at(at)[..4].to_vec()).unwrap(),
                at,
                len,
            )
        })
        .collect()
}

pub(super) fn find(found: &[(String, u64, u64)], signature: &str) -> (u64, u64) {
    found
        .iter()
        .find(|(name, ..)| name == signature)
        .map(|&(_, at, len)| (at, len))
        .unwrap()
}

#[test]
fn every_table_is_reachable_and_sums_to_zero() {
    let (mem, rsdp) = tables(&[0]).unwrap();
    assert_eq!(rsdp, 0xe_0000);
    let names: Vec<_> = walk(&mem, rsdp)
        .into_iter()
        .map(|(name, ..)| name)
        .collect();
    assert_eq!(names, ["XSDT", "FACP", "APIC", "MCFG", "WDAT", "DSDT"]);
}

#[test]
fn fadt_is_hardware_reduced_with_sleep_and_reset_ports() {
    let (mem, rsdp) = tables(&[0]).unwrap();
    let (fadt, len) = find(&walk(&mem, rsdp), "FACP");
    assert_eq!(len, 276);
    let flags = mem.u32(fadt + FADT_FLAGS);
    assert_eq!(
        flags & (HW_REDUCED | RESET_REG_SUP),
        HW_REDUCED | RESET_REG_SUP
    );
    // Generic address structures: I/O space, 8 bits wide, byte access.
    for (offset, port) in [(116, 0x602), (244, 0x600), (256, 0x601)] {
        assert_eq!(&mem.at(fadt + offset)[..4], &[1, 8, 0, 1]);
        assert_eq!(mem.u64(fadt + offset + 4), port);
    }
    assert_eq!(mem.u8(fadt + 128), 1);
}

#[test]
fn fadt_tells_of_a_clock_with_a_century() {
    let (mem, rsdp) = tables(&[0]).unwrap();
    let (fadt, _) = find(&walk(&mem, rsdp), "FACP");
    assert_eq!(mem.u8(fadt + 108), 0x32);
    // IAPC_BOOT_ARCH bit 5 would deny the clock, bit 3 message-signalled interrupts.
    assert_eq!(mem.u8(fadt + 109) & 0x28, 0);
}

#[test]
fn mcfg_gives_the_configuration_window_of_bus_0() {
    let (mem, rsdp) = tables(&[0]).unwrap();
    let (mcfg, len) = find(&walk(&mem, rsdp), "MCFG");
    assert_eq!(len, 44 + 16);
    assert_eq!(mem.u64(mcfg + 44), 0xe000_0000);
    // Segment 0, buses 0 to 0.
    assert_eq!(mem.u32(mcfg + 52), 0);
}

/// Does to the watchdog what the table's entries of `action` say, as a driver would, and returns what they read.
fn act(wdat: &[u8], watchdog: &mut Watchdog, action: u8, count: u32, now: u64) -> Vec<u32> {
    let mut answers = Vec::new();
    for entry in wdat[68..].chunks_exact(24).filter(|e| e[0] == action) {
        let (value, mask) = (entry.u32(16).unwrap(), entry.u32(20).unwrap());
        // I/O space, no bit offset, and an access as wide as the register.
        assert_eq!((entry[4], entry[6]), (1, 0));
        assert_eq!(entry[5], 8 << (entry[7] - 1));
        let first = u16::try_from(entry.u64(8).unwrap()).unwrap();
        let ports = first..first + u16::from(entry[5] / 8);
        assert!(ports.clone().all(Watchdog::owns));
        let mut read = || {
            let mut bytes = [0; 4];
            for (byte, port) in bytes.iter_mut().zip(ports.clone()) {
                *byte = watchdog.read(port, now);
            }
            u32::from_le_bytes(bytes) & mask
        };
        let write = match entry[1] {
            0 => {
                answers.push(u32::from(read() == value));
                continue;
            }
            1 => {
                answers.push(read());
                continue;
            }
            2 => value & mask,
            3 => count & mask,
            other => panic!("unexpected instruction {other}"),
        };
        for (byte, port) in write.to_le_bytes().into_iter().zip(ports) {
            watchdog.write(port, byte, now);
        }
    }
    answers
}

#[test]
fn wdat_drives_the_watchdog() {
    let (mem, rsdp) = tables(&[0]).unwrap();
    let (at, len) = find(&walk(&mem, rsdp), "WDAT");
    let wdat = &mem.at(at)[..len as usize];
    assert_eq!(wdat.u32(36), Some(32), "header length");
    assert_eq!(wdat[40..45], [0xff, 0, 0xff, 0xff, 0xff], "no PCI device");
    assert_eq!(wdat.u32(48), Some(1), "milliseconds in a count");
    assert_eq!(wdat.u32(64), Some((wdat.len() as u32 - 68) / 24));
    let (max, min) = (wdat.u32(52).unwrap(), wdat.u32(56).unwrap());
    assert!(min <= 1_000 && max >= 3_600_000);

    // One TSC tick is a millisecond.
    let mut watchdog = Watchdog::new(1, true);
    assert_eq!(act(wdat, &mut watchdog, 32, 0, 0), [1], "fired before");
    act(wdat, &mut watchdog, 33, 0, 0);
    assert_eq!(act(wdat, &mut watchdog, 32, 0, 0), [0]);
    act(wdat, &mut watchdog, 6, 30_000, 0);
    assert_eq!(act(wdat, &mut watchdog, 5, 0, 0), [30_000]);
    assert_eq!(act(wdat, &mut watchdog, 8, 0, 0), [0], "not running");
    act(wdat, &mut watchdog, 9, 0, 0);
    assert_eq!(act(wdat, &mut watchdog, 8, 0, 0), [1], "running");
    assert_eq!(act(wdat, &mut watchdog, 10, 0, 0), [0], "not stopped");
    assert_eq!(act(wdat, &mut watchdog, 4, 0, 10_000), [20_000]);
    act(wdat, &mut watchdog, 1, 0, 10_000);
    assert_eq!(watchdog.next_deadline(), Some(40_000));
    act(wdat, &mut watchdog, 11, 0, 0);
    assert_eq!(act(wdat, &mut watchdog, 10, 0, 0), [1], "stopped");
    assert_eq!(watchdog.next_deadline(), None);
}

#[test]
fn madt_lists_every_vcpu_by_the_structure_its_id_needs() {
    let (mem, rsdp) = tables(&[0, 3, 254, 255, 0x1000]).unwrap();
    let (madt, len) = find(&walk(&mem, rsdp), "APIC");
    let mut at = madt + 44;
    let mut cpus = Vec::new();
    let mut ioapics = Vec::new();
    while at < madt + len {
        match mem.u8(at) {
            0 => cpus.push((0, u32::from(mem.u8(at + 3)), u32::from(mem.u8(at + 2)))),
            9 => cpus.push((9, mem.u32(at + 4), mem.u32(at + 12))),
            1 => ioapics.push((mem.u32(at + 4), mem.u32(at + 8))),
            other => panic!("unexpected structure {other}"),
        }
        at += u64::from(mem.u8(at + 1));
    }
    assert_eq!(at, madt + len);
    assert_eq!(
        cpus,
        [
            (0, 0, 0),
            (0, 3, 1),
            (0, 254, 2),
            (9, 255, 3),
            (9, 0x1000, 4)
        ]
    );
    assert_eq!(ioapics, [(0xfec0_0000, 0)]);
    assert_eq!(mem.u32(madt + 40), 0, "no 8259s");
}

#[test]
fn tables_of_a_thousand_vcpus_fit() {
    let ids: Vec<u32> = (0..1024).collect();
    let (mem, rsdp) = tables(&ids).unwrap();
    let (madt, len) = find(&walk(&mem, rsdp), "APIC");
    assert_eq!(len, 44 + 255 * 8 + (1024 - 255) * 16 + 12);
    assert!(madt + len <= 0xf_0000);
}

#[test]
fn vcpus_beyond_the_room_for_tables_are_refused() {
    let text = |ids: &[u32]| tables(ids).map(|_| ()).unwrap_err().to_string();
    assert_eq!(text(&[]), "ACPI: the VM has no vCPU: give it at least one");
    for too_many in [2_000, 5_000] {
        let ids: Vec<u32> = (0..too_many).collect();
        assert!(text(&ids).contains("fewer vCPUs"));
    }
}

#[test]
fn windows_of_real_devices_are_the_host_bridges() {
    let windows = [
        GpaRange::new(Gpa(0xc000_0000), 0x2000_0000).unwrap(),
        GpaRange::new(Gpa(0x1_4000_0000), 0x4000_0000).unwrap(),
    ];
    let dsdt = |windows: &[GpaRange]| {
        let (mem, rsdp) = tables_with(&[0], windows).unwrap();
        let (dsdt, len) = find(&walk(&mem, rsdp), "DSDT");
        mem.at(dsdt)[..len as usize].to_vec()
    };
    // A QWord address space descriptor of memory: granularity, first and last address.
    let listed = |table: &[u8], first: u64, last: u64| {
        table.windows(46).any(|bytes| {
            bytes[..4] == [0x8a, 0x2b, 0, 0]
                && bytes[14..22] == first.to_le_bytes()
                && bytes[22..30] == last.to_le_bytes()
        })
    };
    let table = dsdt(&windows);
    assert!(listed(&table, 0xc000_0000, 0xdfff_ffff));
    assert!(listed(&table, 0x1_4000_0000, 0x1_7fff_ffff));
    let without = dsdt(&[]);
    assert!(!listed(&without, 0xc000_0000, 0xdfff_ffff));
    assert!(without.len() < table.len());
}
