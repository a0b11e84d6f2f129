//! Guests and devices that mean harm: whatever they do stays in their VM.

use super::super::VirtualConfig;
use super::rig::{LIMIT, RAM_END, Rig};
use crate::addr::{FRAME_SIZE, Gpa};
use crate::passthrough::place::place;
use crate::pci::testing::fake::{Fake, Space};
use crate::pci::testing::inventory_of;
use crate::pci::testing::machines::{hostile, q35};
use crate::platform::{DEVICE_MMIO_BASE, DEVICE_MMIO_SIZE, ECAM_BASE};
use crate::testing::Random;

const ACCESSES: u32 = 1_000_000;

/// A card whose small base addresses share pages, and whose MSI-X table is in the last of many pages.
fn odd_card() -> Space {
    Space::new(0x1234_0003, 0x02_0000)
        .bar(0, 0xfd00_0000, 0x100)
        .bar(1, 0xfd00_0800, 0x800)
        .bar64(2, 0x20_0000_0000, 0x4_0000)
        .msix(0x40, 300, 0x3_e800 | 2, 0x3_fe00 | 2)
        .capability(0x60, 0x05, &[0x80, 1])
}

fn machine() -> Fake {
    q35().with("00:05.0", odd_card())
}

/// What the guest reaches by itself is memory of its functions, and never a page with a table.
fn check_places(rig: &Rig) {
    for part in &rig.places.direct {
        let (from, bytes) = (part.run.first.start().0, part.run.count.0 * FRAME_SIZE);
        let inside = rig
            .functions
            .iter()
            .flat_map(|function| &function.bars)
            .any(|bar| {
                bar.kind.is_memory() && bar.base <= from && from + bytes <= bar.base + bar.size
            });
        assert!(inside, "{part:?}");
        for chip in &rig.chips {
            if let Some((table, end)) = chip.lock().unwrap().table {
                assert!(from + bytes <= table || end <= from, "{part:?}");
            }
        }
        let low = part.gpa >= DEVICE_MMIO_BASE
            && part.gpa.0 + bytes <= DEVICE_MMIO_BASE.0 + DEVICE_MMIO_SIZE;
        let high = rig.places.high.as_ref().is_some_and(|high| {
            high.start >= RAM_END && high.contains(&part.gpa) && part.gpa.0 + bytes <= high.end.0
        });
        assert!(low || high, "{part:?}");
        let overlaps = |other: &crate::passthrough::place::Direct| {
            let end = other.gpa.0 + other.run.count.0 * FRAME_SIZE;
            other.gpa < Gpa(part.gpa.0 + bytes) && part.gpa.0 < end
        };
        assert_eq!(
            rig.places
                .direct
                .iter()
                .filter(|other| overlaps(other))
                .count(),
            1
        );
    }
}

fn value(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => random.next(),
        1 => u64::MAX,
        2 => 1 << random.below(64),
        3 => 0,
        4 => 0x8000_0000 | random.below(0x1000) << 20,
        _ => 0xfee0_0000 | random.below(5) << 12,
    }
}

#[test]
fn a_million_random_accesses_reach_nothing_but_the_vms_own() {
    let mut random = Random(0x7a55_ed70_9a55_0001);
    let names = ["00:02.0", "00:03.0", "00:04.0", "00:05.0"];
    let mut rig = Rig::new(machine(), &names);
    check_places(&rig);
    let homes: Vec<(u64, u64)> = [
        (1, 3, 0),
        (3, 0, 0x2000),
        (4, 2, 0x3_e800),
        (4, 0, 0),
        (4, 1, 0),
    ]
    .map(|(device, bar, offset)| (device, rig.bar(device, bar) + offset))
    .into();
    let bars: Vec<(u64, u16, u64)> = [
        (1, 0),
        (1, 1),
        (1, 3),
        (2, 0),
        (3, 0),
        (4, 0),
        (4, 1),
        (4, 2),
    ]
    .map(|(device, bar)| (device, bar, rig.bar(device, bar)))
    .into();
    let (mut routed, mut opened) = (0, 0);
    for access in 0..ACCESSES {
        let size = random.of(&[1, 2, 4, 4, 4, 8]);
        let value = value(&mut random);
        let (_, home) = random.of(&homes);
        let device = 1 + random.below(4);
        let gpa = match random.below(8) {
            0 => DEVICE_MMIO_BASE.0 + random.below(DEVICE_MMIO_SIZE),
            1 => ECAM_BASE.0 + (device << 15) + random.below(0x1000),
            2 | 3 => ECAM_BASE.0 + (device << 15) + (random.below(0x100) & !3),
            4 => home + random.below(0x1400),
            _ => home + (random.below(0x400) & !3),
        };
        // The places move at times, as a guest that sizes them moves them; mostly everything is on and at home.
        if random.one_in(64) {
            let _ = rig.set_config(device, 4, 2, 6);
            let _ = rig.set_config(device, 0x42, 2, 0x8000);
            for (device, bar, base) in &bars {
                let _ = rig.set_config(*device, 0x10 + 4 * bar, 4, *base as u32);
                if bases_are_wide(*device, *bar) {
                    let _ = rig.set_config(*device, 0x14 + 4 * bar, 4, (base >> 32) as u32);
                }
            }
        }
        if random.one_in(4) {
            let _ = rig.read(gpa, size);
        } else {
            let _ = rig.bus.write(Gpa(gpa), size, value, &mut rig.machine);
        }
        if access % 1024 == 0 {
            rig.check_entries();
            routed += (0..1024)
                .filter(|index| rig.deliver(*index).is_some())
                .count();
            for (chip, count) in [(2, 65), (3, 300)] {
                let chip = rig.chips[chip].lock().unwrap();
                opened += (0..count).filter(|number| chip.vector(*number).2).count();
            }
        }
        if random.one_in(50_000) {
            rig.bus.disconnect();
            assert!((0..1024).all(|index| rig.deliver(index).is_none()));
            assert!(rig.chips.iter().all(|chip| !chip.lock().unwrap().master));
            rig.bus.restart();
        }
    }
    assert!(
        routed > 1000 && opened > 100,
        "{routed} routed, {opened} opened"
    );
}

/// The NVMe disk's base address, and the odd card's third.
fn bases_are_wide(device: u64, bar: u16) -> bool {
    matches!((device, bar), (3, 0) | (4, 2))
}

#[test]
fn devices_that_lie_about_themselves_are_placed_or_refused() {
    let inventory = inventory_of(&mut hostile());
    let mut placed = 0;
    for function in inventory.functions() {
        let Ok(view) = VirtualConfig::new(function) else {
            continue;
        };
        let mut views = [(function.address, view)];
        let Ok(places) = place(&mut views, RAM_END, LIMIT) else {
            continue;
        };
        placed += 1;
        for part in places.direct {
            let bars = &function.bars;
            let from = part.run.first.start().0;
            assert!(
                bars.iter()
                    .any(|bar| bar.base <= from && from < bar.base + bar.size)
            );
        }
    }
    assert!(placed > 5, "{placed}");
}
