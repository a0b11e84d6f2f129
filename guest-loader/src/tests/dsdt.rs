//! The DSDT as an interpreter walks it: device by device, resource by resource.

use std::collections::BTreeMap;

use super::acpi::{find, tables, walk};

/// A device's name and what its package holds.
type Devices = BTreeMap<String, Vec<u8>>;

/// Splits a package: its content, and what follows it.
fn package(bytes: &[u8]) -> (&[u8], &[u8]) {
    let more = usize::from(bytes[0] >> 6);
    let len = match more {
        0 => usize::from(bytes[0]),
        _ => {
            bytes[1..=more]
                .iter()
                .rev()
                .fold(0, |len, byte| len << 8 | usize::from(*byte))
                << 4
                | usize::from(bytes[0] & 0xf)
        }
    };
    (&bytes[more + 1..len], &bytes[len..])
}

/// Every device of the table; its top level is `\\_S5_` and the scope `\\_SB_`, which holds devices and nothing else.
fn devices(vcpus: u32) -> Devices {
    let ids: Vec<u32> = (0..vcpus).collect();
    let (mem, rsdp) = tables(&ids).unwrap();
    let (at, len) = find(&walk(&mem, rsdp), "DSDT");
    // Name(_S5_, Package(4) { 5, 5, 0, 0 }), then Scope.
    let scope = mem.at(at)[36..len as usize]
        .strip_prefix(b"\x08_S5_\x12\x08\x04\x0a\x05\x0a\x05\x00\x00\x10")
        .unwrap();
    let (content, after) = package(scope);
    assert!(after.is_empty());
    let mut rest = content.strip_prefix(b"\\_SB_").unwrap();
    let mut devices = Devices::new();
    while !rest.is_empty() {
        let (content, after) = package(rest.strip_prefix(&[0x5b, 0x82]).unwrap());
        let name = String::from_utf8(content[..4].to_vec()).unwrap();
        let earlier = devices.insert(name, content[4..].to_vec());
        assert_eq!(earlier, None, "a name is given once");
        rest = after;
    }
    devices
}

fn has(content: &[u8], code: &[u8]) -> bool {
    content.windows(code.len()).any(|window| window == code)
}

/// The descriptors of a device's current resources, each whole.
fn resources(content: &[u8]) -> Vec<Vec<u8>> {
    let start = content
        .windows(6)
        .position(|window| window == b"\x08_CRS\x11")
        .unwrap();
    let (buffer, _) = package(&content[start + 6..]);
    // The buffer's length fits a byte: BytePrefix.
    assert_eq!(buffer[0], 0x0a);
    let mut rest = &buffer[2..];
    assert_eq!(rest.len(), usize::from(buffer[1]));
    let mut found = Vec::new();
    loop {
        let len = if rest[0] & 0x80 == 0 {
            1 + usize::from(rest[0] & 7)
        } else {
            3 + usize::from(u16::from_le_bytes([rest[1], rest[2]]))
        };
        let (descriptor, after) = rest.split_at(len);
        if descriptor[0] == 0x79 {
            assert!(after.is_empty(), "the end tag ends it");
            return found;
        }
        found.push(descriptor.to_vec());
        rest = after;
    }
}

/// A 16-bit decoded I/O range.
fn ports(first: u16, count: u8) -> Vec<u8> {
    let [low, high] = first.to_le_bytes();
    vec![0x47, 1, low, high, low, high, 1, count]
}

/// An extended interrupt descriptor: consumer, edge, active high, exclusive, one interrupt.
fn interrupt(gsi: u8) -> Vec<u8> {
    vec![0x89, 6, 0, 0b0011, 1, gsi, 0, 0, 0]
}

#[test]
fn every_device_is_there_once() {
    let names: Vec<String> = devices(2).into_keys().collect();
    assert_eq!(
        names,
        [
            "C000", "C001", "COM1", "GED0", "MBRD", "PCI0", "PWRB", "RTC0"
        ]
    );
}

#[test]
fn each_vcpu_has_a_processor_device_with_its_unique_id() {
    let devices = devices(64);
    for uid in 0..64_u8 {
        let content = &devices[&format!("C{uid:03X}")];
        assert!(content.starts_with(b"\x08_HID\x0dACPI0007\x00\x08_UID"));
        let expected = match uid {
            0 | 1 => vec![uid],
            _ => vec![0x0a, uid],
        };
        assert!(content.ends_with(&expected));
    }
}

#[test]
fn the_console_has_its_ports_and_interrupt() {
    let console = &devices(1)["COM1"];
    assert!(has(console, &[0x0c, 0x41, 0xd0, 0x05, 0x01]), "PNP0501");
    assert_eq!(resources(console), [ports(0x3f8, 8), interrupt(4)]);
}

#[test]
fn the_clock_has_ports_and_no_interrupt() {
    let clock = &devices(1)["RTC0"];
    assert!(has(clock, &[0x0c, 0x41, 0xd0, 0x0b, 0x00]), "PNP0B00");
    assert_eq!(resources(clock), [ports(0x70, 2)]);
}

#[test]
fn the_event_device_reads_its_register_and_notifies_the_button() {
    let devices = devices(1);
    let button = &devices["PWRB"];
    assert!(has(button, &[0x0c, 0x41, 0xd0, 0x0c, 0x0c]), "PNP0C0C");

    let events = &devices["GED0"];
    assert!(has(events, b"\x0dACPI0013\x00"));
    assert_eq!(resources(events), [interrupt(9)]);
    // OperationRegion(EVTR, SystemIO, 0x604, 1).
    assert!(has(events, b"\x5b\x80EVTR\x01\x0b\x04\x06\x01"));
    // Field(EVTR, ByteAcc, NoLock, WriteAsZeros) { EVTS, 8 }.
    assert!(has(events, b"\x5b\x81\x0bEVTR\x41EVTS\x08"));
    // Method(_EVT, 1, Serialized) { Local0 = EVTS; If (Local0 & 1) { Notify(\_SB.PWRB, 0x80) } }.
    assert!(events.ends_with(
        b"\x14\x1f_EVT\x09\x70EVTS\x60\xa0\x12\x7b\x60\x01\x00\x86\\\x2e_SB_PWRB\x0a\x80"
    ));
}

#[test]
fn the_configuration_window_is_listed_as_taken() {
    let board = &devices(1)["MBRD"];
    assert!(has(board, &[0x0c, 0x41, 0xd0, 0x0c, 0x02]), "PNP0C02");
    // Memory32Fixed(ReadWrite, 0xe0000000, 0x100000).
    let window = vec![0x86, 9, 0, 1, 0, 0, 0, 0xe0, 0, 0, 0x10, 0];
    assert_eq!(resources(board), [ports(0x600, 5), window]);
}

#[test]
fn the_host_bridge_has_one_bus_and_windows_for_bars() {
    let bridge = &devices(1)["PCI0"];
    assert!(has(bridge, &[0x0c, 0x41, 0xd0, 0x0a, 0x08]), "PNP0A08");
    assert!(has(bridge, &[0x0c, 0x41, 0xd0, 0x0a, 0x03]), "PNP0A03");
    assert!(has(bridge, b"\x08_SEG\x00") && has(bridge, b"\x08_BBN\x00"));
    // Address space descriptors: type, fixed bounds, type flags; granularity, first, last, translation, length.
    let buses = [&[0x88, 13, 0, 2, 0x0c, 0][..], &[0; 8], &[1, 0]].concat();
    let io = [
        &[0x88, 13, 0, 1, 0x0c, 3][..],
        &[0, 0, 0, 0xc0, 0xff, 0xcf, 0, 0, 0, 0x10],
    ]
    .concat();
    let mut memory = vec![0x87, 23, 0, 0, 0x0c, 1];
    for field in [0, 0xe010_0000_u32, 0xe1ff_ffff, 0, 0x01f0_0000] {
        memory.extend(field.to_le_bytes());
    }
    assert_eq!(resources(bridge), [buses, ports(0xcf8, 8), io, memory]);
    // _OSC gives back what it was asked, if it knows the interface.
    let uuid = [
        0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c, 0x40, 0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7,
        0x66,
    ];
    let known = [&uuid[..], &[0xa4, 0x6b]].concat();
    assert!(has(bridge, b"_OSC\x0c\xa0") && has(bridge, &known));
}
