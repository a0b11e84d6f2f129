use crate::ledger::VmId;
use crate::table::PageSize;
use crate::vtd::capability::*;
use crate::vtd::registers::Reg64;

use super::fake::{CAPABILITY, EXTENDED, FakeUnit};

fn choose(capability: u64, extended: u64) -> Result<Chosen, CapabilityError> {
    Chosen::choose(Capability(capability), ExtendedCapability(extended), true)
}

#[test]
fn a_capable_unit_is_read_field_by_field() {
    let chosen = choose(CAPABILITY, EXTENDED).unwrap();
    let tree = TreeShape {
        depths: Depths::THREE | Depths::FOUR,
        address_bits: 48,
        largest_page: PageSize::Size1G,
        snoop: true,
        coherent: true,
        flush_after_map: false,
        page_selective: Some(18),
        domains: 256,
    };
    assert_eq!(chosen.tree, tree);
    assert_eq!(chosen.invalidation, InvalidationWay::Queued);
    assert_eq!(chosen.interrupts, Some(InterruptMode::X2apic));
    let records = FaultRecords {
        first: 0x220,
        count: 1,
    };
    assert_eq!(chosen.fault_records, records);
    assert!(!chosen.write_buffer_flush && !chosen.posted && !chosen.protected_memory);
    assert_eq!(chosen.register_bytes(), 0x230);
}

#[test]
fn single_bits_change_single_choices() {
    let with = |bit: u32| choose(CAPABILITY | 1 << bit, EXTENDED).unwrap();
    assert!(with(4).write_buffer_flush && with(4).tree.flush_after_map);
    assert!(with(5).protected_memory && with(6).protected_memory);
    assert!(with(7).tree.flush_after_map && !with(7).write_buffer_flush);
    assert!(with(59).posted);
    let without = |bit: u32| choose(CAPABILITY & !(1 << bit), EXTENDED).unwrap();
    assert_eq!(without(39).tree.page_selective, None);
    assert_eq!(without(35).tree.largest_page, PageSize::Size2M);
    assert_eq!(without(34).tree.largest_page, PageSize::Size4K);
    let without = |bit: u32| choose(CAPABILITY, EXTENDED & !(1 << bit)).unwrap();
    assert!(!without(0).tree.coherent && !without(7).tree.snoop);
    assert_eq!(
        without(1).invalidation,
        InvalidationWay::Registers(Reg64(0xf0))
    );
    let error = without(1).remapped_interrupts().unwrap_err();
    assert_eq!(error, CapabilityError::NoInterruptRemapping);
    assert_eq!(without(3).interrupts, None);
}

#[test]
fn what_cannot_be_done_without_is_named() {
    let depth = choose(CAPABILITY & !(0x1f << 8) | 8 << 8, EXTENDED).unwrap_err();
    assert_eq!(depth, CapabilityError::NoKnownDepth(Depths::FIVE));
    let narrow = choose(CAPABILITY & !(0x3f << 16) | 30 << 16, EXTENDED).unwrap_err();
    assert_eq!(narrow, CapabilityError::NarrowAddresses(31));
    assert_eq!(
        choose(CAPABILITY | 7, EXTENDED).unwrap_err(),
        CapabilityError::DomainCount
    );
    let x2apic = choose(CAPABILITY, EXTENDED & !(1 << 4)).unwrap_err();
    assert_eq!(x2apic, CapabilityError::NoExtendedInterrupts);
    for (version, there) in [(0, false), (0xffff_ffff, false), (0x10, true)] {
        let unit = FakeUnit::new(CAPABILITY, EXTENDED);
        unit.set(0, version);
        assert_eq!(Chosen::read(&mut unit.clone(), true).is_ok(), there);
    }
}

#[test]
fn no_register_value_panics() {
    let mut random = crate::testing::Random(1);
    for _ in 0..100_000 {
        if let Ok(chosen) = choose(random.next(), random.next()) {
            assert!(chosen.register_bytes() >= 0xc0);
        }
    }
}

#[test]
fn units_meet_in_what_both_can() {
    let one = choose(CAPABILITY, EXTENDED).unwrap().tree;
    let other = TreeShape {
        depths: Depths::THREE,
        address_bits: 39,
        largest_page: PageSize::Size2M,
        snoop: false,
        coherent: false,
        flush_after_map: true,
        page_selective: None,
        domains: 16,
    };
    assert_eq!(one.meet(other), other);
    assert_eq!(other.meet(one), other);
    assert_eq!(one.meet(one), one);
}

#[test]
fn domain_ids_are_never_zero_and_end_with_the_unit() {
    let tree = choose(CAPABILITY & !7, EXTENDED).unwrap().tree;
    assert_eq!(tree.domain_of(VmId(0)).unwrap().raw(), 1);
    assert_eq!(tree.domain_of(VmId(14)).unwrap().raw(), 15);
    let error = CapabilityError::TooFewDomains {
        vm: VmId(15),
        domains: 16,
    };
    assert_eq!(tree.domain_of(VmId(15)), Err(error));
}
