//! What is found, and that finding ends.

use super::super::bar::{Bar, BarKind, Rom};
use super::super::capability::{CapabilityKind, ExtendedKind, InBar, MsiX, PortType};
use super::super::inventory::{Behind, Header, Warning};
use super::super::testing::machines::{desktop, hostile, q35};
use super::super::testing::{at, inventory_of};
use crate::pci::enumerate::{HostBridge, enumerate};
use crate::testing::Random;

#[test]
fn a_q35_is_found_whole_and_left_as_it_was() {
    let mut fake = q35();
    let before = fake.clone();
    let inventory = inventory_of(&mut fake);
    assert_eq!(inventory.warnings(), []);
    assert!(
        inventory
            .functions()
            .iter()
            .map(|function| function.address)
            .eq(before.functions.keys().copied())
    );
    for (address, space) in &before.functions {
        assert_eq!(space.bytes, fake.functions[address].bytes, "{address}");
    }
    let card = inventory.find(at("00:02.0")).unwrap();
    let memory = BarKind::Memory32 {
        prefetchable: false,
    };
    let bar = |index, kind, base, size| Bar {
        index,
        kind,
        base,
        size,
    };
    assert_eq!(
        card.bars,
        [
            bar(0, memory, 0xfeb4_0000, 0x2_0000),
            bar(1, memory, 0xfeb6_0000, 0x2_0000),
            bar(2, BarKind::Io, 0xc040, 0x20),
            bar(3, memory, 0xfeb8_0000, 0x4000),
        ]
    );
    let rom = Rom {
        base: 0xfeb0_0000,
        size: 0x4_0000,
    };
    assert_eq!(card.rom, Some(rom));
    assert_eq!((card.class.bits(), card.revision), (0x02_0000, 1));
    assert_eq!(card.express().unwrap().port, PortType::Endpoint);
    let kinds: Vec<_> = card.capabilities.iter().map(|found| found.kind).collect();
    assert!(matches!(
        kinds[..],
        [
            CapabilityKind::Power,
            CapabilityKind::Msi(_),
            CapabilityKind::Express(_),
            CapabilityKind::MsiX(MsiX {
                vectors: 5,
                table: InBar { bar: 3, offset: 0 },
                pending: InBar {
                    bar: 3,
                    offset: 0x2000
                },
            }),
        ]
    ));
    let extended: Vec<_> = card.extended.iter().map(|found| found.kind).collect();
    let unknown = |id| ExtendedKind::Unknown { id, version: 1 };
    assert_eq!(extended, [unknown(1), unknown(3)]);
    let disk = inventory.find(at("00:04.0")).unwrap();
    let wide = BarKind::Memory64 { prefetchable: true };
    assert_eq!(disk.bars, [bar(0, wide, 0x10_0000_0000, 0x4000)]);
    assert!(!inventory.find(at("00:1f.0")).unwrap().is_assignable());
}

#[test]
fn bridges_lead_to_what_is_behind_them() {
    let inventory = inventory_of(&mut desktop());
    assert_eq!(inventory.warnings(), []);
    assert_eq!(inventory.functions().len(), desktop().functions.len());
    let path = |place| -> Vec<_> {
        let function = inventory.find(at(place)).unwrap();
        inventory
            .ancestors(function)
            .map(|bridge| bridge.address)
            .collect()
    };
    assert_eq!(path("04:00.0"), ["02:01.0", "01:00.0", "00:01.0"].map(at));
    assert_eq!(path("00:1c.1"), []);
    let requesters = |place| inventory.requesters(inventory.find(at(place)).unwrap());
    assert_eq!(requesters("04:00.0"), [at("04:00.0")]);
    assert_eq!(
        requesters("0b:01.0"),
        ["0a:00.0", "0b:00.0", "0b:01.0"].map(at)
    );
}

#[test]
fn what_lies_is_named_and_the_rest_is_found() {
    let inventory = inventory_of(&mut hostile());
    let found = |place| inventory.find(at(place));
    for place in ["00:00.0", "00:01.0", "04:00.0", "20:01.0", "28:00.0"] {
        assert!(found(place).is_some(), "{place}");
    }
    assert_eq!(found("00:00.0").unwrap().header, Header::Unknown(0x7f));
    assert!(found("00:1f.0").is_none());
    assert_eq!(found("00:12.0").unwrap().header, {
        let (secondary, subordinate) = (0x20, 0x2f);
        Header::Bridge(Behind::Buses {
            secondary,
            subordinate,
        })
    });
    assert_eq!(
        found("20:02.0").unwrap().header,
        Header::Bridge(Behind::Nothing)
    );
    let warnings = inventory.warnings();
    let bridges: Vec<_> = warnings
        .iter()
        .filter_map(|warning| match warning {
            Warning::BusNumbers { bridge, .. } => Some(*bridge),
            _ => None,
        })
        .collect();
    let liars = ["00:10.0", "00:11.0", "00:13.0", "20:00.0", "20:01.0"].map(at);
    assert_eq!(bridges, liars);
    let lists: Vec<_> = warnings
        .iter()
        .filter_map(|warning| match warning {
            Warning::CapabilityList { function, at } => Some((*function, *at)),
            _ => None,
        })
        .collect();
    assert_eq!(
        lists,
        [
            (at("00:02.0"), 0x40),
            (at("00:03.0"), 0x10),
            (at("00:04.0"), 0x100),
            (at("00:05.0"), 0x40)
        ]
    );
    assert!(warnings.contains(&Warning::NotReady(at("00:1f.0"))));
    let kind = 0x7f;
    let function = at("00:00.0");
    assert!(warnings.contains(&Warning::Header { function, kind }));
    for index in [0, 5] {
        let function = at("00:01.0");
        assert!(warnings.contains(&Warning::Bar { function, index }));
    }
    // A list that was cut short keeps what came before.
    assert_eq!(found("00:02.0").unwrap().capabilities.len(), 2);
    for warning in warnings {
        assert!(warning.to_string().contains("0000:"), "{warning}");
    }
}

#[test]
fn an_empty_segment_has_nothing() {
    let range = HostBridge {
        segment: 3,
        first_bus: 0,
        last_bus: 0xff,
    };
    let inventory = enumerate(&mut q35(), &[range]);
    assert_eq!(
        (inventory.functions(), inventory.warnings()),
        (&[][..], &[][..])
    );
}

#[test]
fn random_registers_are_walked_to_the_end() {
    let mut random = Random(0x0bad_cafe_1234_5678);
    for _ in 0..200 {
        let mut fake = desktop();
        for space in fake.functions.values_mut() {
            for _ in 0..random.below(12) {
                let at = random.below(0x130) as usize;
                let byte = random.next() as u8;
                let of_interest = random.of(&[0, 0x40, 0xff, byte]);
                space.put(at.max(8), &[of_interest]);
            }
        }
        let inventory = inventory_of(&mut fake);
        assert!(inventory.functions().len() <= fake.functions.len());
        for function in inventory.functions() {
            assert!(inventory.ancestors(function).count() < 16);
        }
    }
}
