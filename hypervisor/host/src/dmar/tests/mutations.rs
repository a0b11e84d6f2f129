//! Broken copies of the machines' tables: each parses or is refused, and what parses holds together.

use super::*;
use crate::testing::Random;

/// The units of a table by the simplest walk there is, or `None` where the walk does not reach the end.
fn count_units(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut units) = (FIRST_ENTRY, 0);
    while bytes[at..].iter().any(|byte| *byte != 0) {
        let kind = u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().unwrap());
        let length = u16::from_le_bytes(bytes.get(at + 2..at + 4)?.try_into().unwrap());
        if length < 4 || at + usize::from(length) > bytes.len() {
            return None;
        }
        units += usize::from(kind == 0);
        at += usize::from(length);
    }
    Some(units)
}

/// Whether a table parses; panics where it should not have, or where what it says cannot be relied on.
fn sound(bytes: &[u8], random: &mut Random) -> bool {
    let dmar = match Dmar::parse(bytes) {
        Ok(dmar) => dmar,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    assert_eq!(Some(dmar.units.len()), count_units(bytes), "a unit is lost");
    assert!(dmar.warnings.len() <= MAX_WARNINGS + 1);
    for warning in &dmar.warnings {
        assert!(!warning.to_string().is_empty());
    }
    let end = 1u64 << dmar.address_width;
    for (nr, unit) in dmar.units.iter().enumerate() {
        let (start, stop) = (unit.registers.0, unit.registers.0 + unit.size);
        assert!(start != 0 && start.is_multiple_of(4096) && stop <= end);
        for other in &dmar.units[..nr] {
            let apart = stop <= other.registers.0 || other.registers.0 + other.size <= start;
            assert!(apart, "{unit:?} {other:?}");
            let both = unit.include_pci_all && other.include_pci_all;
            assert!(!both || unit.segment != other.segment);
        }
    }
    for region in &dmar.reserved {
        assert!(region.base <= region.limit && region.limit.0 < end);
        assert!(region.base.is_aligned(4096) && (region.limit.0 + 1).is_multiple_of(4096));
    }
    ask(&dmar, random);
    true
}

/// Asks about some functions of a machine whose bridges say anything.
fn ask(dmar: &Dmar, random: &mut Random) {
    let seed = random.next();
    let anything = |segment: u16, at: SourceId| {
        let mut random = Random(seed ^ u64::from(segment) << 16 ^ u64::from(at.0) | 1);
        let [secondary, subordinate, ..] = random.next().to_le_bytes();
        random.one_in(2).then_some(Buses {
            secondary,
            subordinate,
        })
    };
    for _ in 0..4 {
        let (segment, source) = (random.below(3) as u16, SourceId(random.next() as u16));
        let unit = dmar.unit_of(segment, source, &anything);
        assert!(unit.is_none_or(|unit| unit.segment == segment));
        let all = |unit: &Unit| unit.segment == segment && unit.include_pci_all;
        assert!(unit.is_some() || !dmar.units.iter().any(all));
        let mut regions = dmar.regions_of(segment, source, &anything);
        assert!(regions.all(|region| region.segment == segment));
        let _ = dmar.io_apic(random.next() as u8, &anything);
    }
}

#[test]
fn every_table_is_refused_with_any_one_bit_flipped() {
    for table in machines::all() {
        assert!(Dmar::parse(&table).is_ok());
        for bit in 0..table.len() * 8 {
            let mut flipped = table.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Dmar::parse(&flipped).is_err(), "bit {bit}");
        }
    }
}

#[test]
fn any_one_bit_flipped_under_a_right_checksum_loses_no_unit() {
    let mut random = Random(0xd3a5_0001);
    let mut parsed = 0;
    for table in machines::all() {
        for bit in FIRST_ENTRY * 8..table.len() * 8 {
            let mut flipped = table.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            seal(&mut flipped);
            parsed += usize::from(sound(&flipped, &mut random));
        }
    }
    assert!(parsed > 1000, "only {parsed} got as far as being looked at");
}

#[test]
fn every_truncation_is_refused_or_sound() {
    let mut random = Random(0xd3a5_0002);
    for table in machines::all() {
        for length in 0..table.len() {
            let mut short = table[..length].to_vec();
            assert!(Dmar::parse(&short).is_err());
            if length >= 10 {
                seal(&mut short);
                sound(&short, &mut random);
            }
        }
    }
}

#[test]
fn thousands_of_mutations_are_refused_or_sound() {
    let mut random = Random(0xd3a5_0003);
    let tables = machines::all();
    let (mut parsed, mut refused) = (0, 0);
    for _ in 0..8000 {
        let mut table = tables[random.below(tables.len() as u64) as usize].clone();
        for _ in 0..=random.below(3) {
            mutate(&mut table, &mut random);
        }
        if table.len() >= 10 {
            seal(&mut table);
        }
        match sound(&table, &mut random) {
            true => parsed += 1,
            false => refused += 1,
        }
    }
    assert!(parsed > 500 && refused > 500, "{parsed} {refused}");
}

/// One change: bits, bytes, a length, something cut out, doubled or put in.
fn mutate(table: &mut Vec<u8>, random: &mut Random) {
    if table.len() <= FIRST_ENTRY + 4 {
        return;
    }
    let at = FIRST_ENTRY + random.below((table.len() - FIRST_ENTRY) as u64) as usize;
    let count = (1 + random.below(24) as usize).min(table.len() - at);
    match random.below(7) {
        0 => table[at] ^= 1 << random.below(8),
        1 => table[at] = random.of(&[0, 1, 3, 4, 7, 8, 16, 0x7f, 0x80, 0xff]),
        2 => table[at..at + count].fill_with(|| random.next() as u8),
        3 => drop(table.drain(at..at + count)),
        4 => table.extend_from_within(at..at + count),
        5 => table.truncate(at),
        _ => {
            let entry = entry_start(table, random);
            let length = random.of(&[0u16, 3, 4, 8, 15, 16, 24, 32, 0xffff]);
            if let Some(field) = table.get_mut(entry + 2..entry + 4) {
                field.copy_from_slice(&length.to_le_bytes());
            }
        }
    }
}

/// Where some entry begins, as long as lengths lead there.
fn entry_start(table: &[u8], random: &mut Random) -> usize {
    let mut at = FIRST_ENTRY;
    for _ in 0..random.below(6) {
        let Some([low, high]) = table.get(at + 2..at + 4) else {
            break;
        };
        let next = at + usize::from(u16::from_le_bytes([*low, *high]));
        if next <= at || next >= table.len() {
            break;
        }
        at = next;
    }
    at
}
