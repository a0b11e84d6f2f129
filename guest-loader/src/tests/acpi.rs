//! ACPI tables as a guest walks them: from the RSDP, with every checksum and the numbers that drivers use.

use super::support::TestMemory;
use crate::acpi::{self, RsdpAddress};
use crate::{LoadError, PlatformDescription};

const FADT_FLAGS: u64 = 112;
const HW_REDUCED: u32 = 1 << 20;
const RESET_REG_SUP: u32 = 1 << 10;

fn tables(apic_ids: &[u32]) -> Result<(TestMemory, u64), LoadError> {
    let mut mem = TestMemory::new(2 << 20);
    let RsdpAddress(rsdp) = acpi::write(
        &PlatformDescription {
            vcpu_apic_ids: apic_ids,
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
fn walk(mem: &TestMemory, rsdp: u64) -> Vec<(String, u64, u64)> {
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

fn find(found: &[(String, u64, u64)], signature: &str) -> (u64, u64) {
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
    assert_eq!(names, ["XSDT", "FACP", "APIC", "DSDT"]);
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
fn dsdt_names_soft_off_and_the_uart_with_its_ports_and_interrupt() {
    let (mem, rsdp) = tables(&[0]).unwrap();
    let (dsdt, len) = find(&walk(&mem, rsdp), "DSDT");
    let aml = &mem.at(dsdt)[..len as usize];
    let has = |bytes: &[u8]| aml.windows(bytes.len()).any(|window| window == bytes);
    // Name(_S5_, Package(4) { 5, 5, 0, 0 }) in AML.
    assert!(has(b"\x08_S5_\x12\x08\x04\x0a\x05\x0a\x05\x00\x00"));
    // EisaId("PNP0501").
    assert!(has(&[0x0c, 0x41, 0xd0, 0x05, 0x01]));
    // I/O port descriptor, 16-bit decode.
    assert!(has(&[0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8]));
    // Extended interrupt descriptor: consumer, edge, active high, exclusive, one interrupt.
    assert!(has(&[0x89, 6, 0, 0b0011, 1, 4, 0, 0, 0]));
}

#[test]
fn vcpus_beyond_the_room_for_tables_are_refused() {
    let text = |ids: &[u32]| tables(ids).map(|_| ()).unwrap_err().to_string();
    assert_eq!(text(&[]), "ACPI: the VM has no vCPU: give it at least one");
    let many: Vec<u32> = (0..5000).collect();
    assert!(text(&many).contains("fewer vCPUs"));
}
