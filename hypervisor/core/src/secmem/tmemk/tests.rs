//! Register values of good, poor and hostile firmware; addresses; keys on a machine with packages, caches and memory.

use proptest::prelude::*;

use super::*;
use crate::addr::Frame;
use crate::mtrr::{MSR_DEF_TYPE, MSR_MTRRCAP, MSR_PHYSBASE0};

const GIB: u64 = 1 << 30;

/// A server: 52 address bits, six of them a key id, 63 keys, every algorithm.
const GOOD: Registers = Registers {
    has_tme: true,
    has_pconfig: true,
    physical_bits: 52,
    capability: 0xf | 6 << 32 | 63 << 36,
    activate: 0b11 | 6 << 32 | 0b1111 << 48,
};

fn find(registers: Registers) -> Result<KeyIds, Unusable> {
    KeyIds::find(&registers, Hpa(64 * GIB), &Mtrrs::DISABLED)
}

fn with_activate(activate: u64) -> Result<KeyIds, Unusable> {
    find(Registers { activate, ..GOOD })
}

#[test]
fn a_machine_with_everything_has_its_keys_above_its_memory() {
    let keys = find(GOOD).unwrap();
    assert_eq!(keys.count(), 63);
    assert_eq!((keys.field().shift(), keys.field().bits()), (46, 6));
}

#[test]
fn fewer_keys_than_ids_are_all_there_are() {
    let capability = 6 << 32 | 40 << 36;
    let keys = find(Registers { capability, ..GOOD }).unwrap();
    assert_eq!((keys.count(), keys.field().bits()), (40, 6));
}

#[test]
fn ids_from_the_top_are_tdx_s() {
    let keys = with_activate(GOOD.activate | 2 << 36).unwrap();
    assert_eq!(keys.count(), 15);
    assert_eq!((keys.field().shift(), keys.field().bits()), (46, 4));
    assert_eq!(
        with_activate(GOOD.activate | 6 << 36),
        Err(Unusable::TakenByTdx)
    );
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(find(Registers::default()), Err(Unusable::Absent));
    let one_key = Registers {
        has_pconfig: false,
        ..GOOD
    };
    assert_eq!(find(one_key), Err(Unusable::OneKey));
    for capability in [0xf, 0xf | 6 << 32, 0xf | 63 << 36] {
        let registers = Registers { capability, ..GOOD };
        assert_eq!(find(registers), Err(Unusable::OneKey), "{capability:#x}");
    }
    let without = |bits: u64| with_activate(GOOD.activate & !bits);
    assert_eq!(without(1 << 1), Err(Unusable::NotActivated));
    assert_eq!(without(1 << 0), Err(Unusable::NotLocked));
    assert_eq!(without(0xf << 32), Err(Unusable::NoKeyIdBits));
    assert_eq!(without(1 << 50), Err(Unusable::NoAesXts256));
}

#[test]
fn what_cannot_be_is_not_believed() {
    let too_many = GOOD.activate | 7 << 32;
    assert_eq!(with_activate(too_many), Err(Unusable::Nonsense(too_many)));
    let more_than_all = GOOD.activate | 7 << 36;
    assert_eq!(
        with_activate(more_than_all),
        Err(Unusable::Nonsense(more_than_all))
    );
    for physical_bits in [0, 5, 37, 53, 255] {
        let registers = Registers {
            physical_bits,
            ..GOOD
        };
        assert_eq!(find(registers), Err(Unusable::Width(physical_bits)));
    }
}

#[test]
fn memory_that_reaches_into_the_key_ids_forbids_them() {
    let find = |end| KeyIds::find(&GOOD, Hpa(end), &Mtrrs::DISABLED);
    assert!(find(1 << 46).is_ok());
    let end = (1 << 46) + 1;
    assert_eq!(find(end), Err(Unusable::MemoryBeyond(Hpa(end))));
}

#[test]
fn memory_types_that_depend_on_the_key_forbid_them() {
    let mtrrs = |mask: u64| {
        Mtrrs::read(52, |msr| match msr {
            MSR_MTRRCAP => 1,
            MSR_DEF_TYPE => 1 << 11,
            MSR_PHYSBASE0 => 6,
            _ => mask | 1 << 11,
        })
        .unwrap()
    };
    let find = |mask| KeyIds::find(&GOOD, Hpa(GIB), &mtrrs(mask));
    assert!(find((1 << 46) - GIB).is_ok());
    for mask in [(1 << 52) - GIB, (1 << 47) - GIB, 1 << 51] {
        assert_eq!(find(mask), Err(Unusable::Mtrrs), "{mask:#x}");
    }
}

/// A CPU whose PCONFIG leaf answers `leaf` in its subleaves.
fn read(features: (u32, u32), leaf: &[[u32; 4]]) -> Registers {
    let answer = |[eax, ebx, ecx, edx]: [u32; 4]| CpuidResult { eax, ebx, ecx, edx };
    let mut host = |asked: u32, subleaf: u32| match asked {
        0 => answer([0x1b, 0, 0, 0]),
        7 => answer([0, 0, features.0, features.1]),
        0x1b => answer(leaf.get(subleaf as usize).copied().unwrap_or([0; 4])),
        0x8000_0008 => answer([0x3034, 0, 0, 0]),
        _ => panic!("leaf {asked:#x} tells nothing of TME-MK"),
    };
    Registers::read(&mut host, u64::from)
}

#[test]
fn registers_are_read_only_where_they_are() {
    assert_eq!(read((!(1 << 13), !0), &[]), Registers::default());
    let found = read((1 << 13, 1 << 18), &[[1, 0, 2, 0], [1, 0, 0, 1]]);
    assert_eq!(
        found,
        Registers {
            has_tme: true,
            has_pconfig: true,
            physical_bits: 52,
            capability: 0x981,
            activate: 0x982,
        }
    );
}

#[test]
fn pconfig_counts_only_with_its_target() {
    let has_pconfig = |edx, leaf: &[[u32; 4]]| read((1 << 13, edx), leaf).has_pconfig;
    let endless = [[2, 1, 1, 1]; 64];
    assert!(!has_pconfig(0, &[[1, 1, 0, 0]]));
    assert!(!has_pconfig(1 << 18, &[]));
    assert!(!has_pconfig(1 << 18, &[[1, 2, 3, 4]]));
    assert!(!has_pconfig(1 << 18, &[[0, 1, 1, 1], [1, 1, 0, 0]]));
    assert!(!has_pconfig(1 << 18, &endless));
}

prop_compose! {
    fn fields()(shift in 32_u32..52)(bits in 1..=(52 - shift).min(15), shift in Just(shift)) -> KeyField {
        KeyField::new(shift, bits).unwrap()
    }
}

proptest! {
    #[test]
    fn an_address_comes_apart_into_what_it_was_made_of(
        field in fields(), frame: u64, other: u64, id: u16, another: u16,
    ) {
        let limit = field.end_of_memory().0 / crate::addr::FRAME_SIZE;
        let (frame, other) = (Frame(frame % limit), Frame(other % limit));
        let tag = |id: u16| HardwareKeyId::new(id & field.last_id())
            .map_or(KeyTag::NONE, |id| field.tag(id).unwrap());
        let (one, two) = (tag(id), tag(another));
        prop_assert_eq!(field.split(one.on(frame)), (frame, one));
        prop_assert_eq!(KeyTag::NONE.on(frame), frame);
        // No two frames share an address, under whatever keys.
        prop_assert_eq!(one.on(frame) == two.on(other), (one, frame) == (two, other));
        prop_assert!(one.on(frame).0 < 1 << (52 - 12));
    }

    #[test]
    fn no_tag_leaves_its_field(field in fields(), id in 1_u16..) {
        let id = HardwareKeyId::new(id).unwrap();
        match field.tag(id) {
            Some(tag) => {
                let address = tag.on(Frame(0)).start().0;
                prop_assert_eq!(address >> field.shift(), u64::from(id.number()));
                prop_assert_eq!(address & (field.end_of_memory().0 - 1), 0);
            }
            None => prop_assert!(id.number() > field.last_id()),
        }
    }

    #[test]
    fn whatever_registers_hold_what_is_found_fits(
        has_tme: bool, has_pconfig: bool, physical_bits in 0_u32..256, capability: u64, activate: u64, end: u64,
    ) {
        let registers = Registers { has_tme, has_pconfig, physical_bits, capability, activate };
        if let Ok(keys) = KeyIds::find(&registers, Hpa(end), &Mtrrs::DISABLED) {
            let field = keys.field();
            prop_assert!(end <= field.end_of_memory().0);
            prop_assert!((1..=field.last_id()).contains(&keys.count()));
            prop_assert!(field.shift() + field.bits() <= physical_bits && physical_bits <= 52);
            prop_assert_eq!(activate & 0b11, 0b11);
        }
    }
}

#[test]
fn no_field_changes_nothing() {
    let frame = Frame((1 << 40) - 1);
    assert_eq!(KeyField::NONE.split(frame), (frame, KeyTag::NONE));
    assert_eq!(KeyField::NONE.tag(HardwareKeyId::new(1).unwrap()), None);
    assert_eq!(HardwareKeyId::new(0), None);
}

mod machine;
