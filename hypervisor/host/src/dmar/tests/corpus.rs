//! What the machines' tables are read as.

use super::*;

#[test]
fn q35_has_one_unit_for_everything() {
    let dmar = machines::q35(false).parse().unwrap();
    assert_eq!(dmar.address_width, 48);
    assert_eq!(dmar.flags, PlatformFlags::INTERRUPT_REMAPPING);
    let [unit] = &dmar.units[..] else {
        panic!("{:?}", dmar.units);
    };
    assert_eq!((unit.registers, unit.size), (Hpa(0xfed9_0000), 4096));
    assert!(unit.include_pci_all);
    let (found, source) = dmar.io_apic(0, &flat).unwrap();
    assert_eq!((found, source), (unit, id(0xff, 0, 0)));
    assert!(dmar.ats_ports.is_empty());
    assert_eq!(dmar.warnings, []);
}

#[test]
fn q35_with_device_iotlb_allows_ats_behind_all_ports() {
    let dmar = machines::q35(true).parse().unwrap();
    let ports = AtsPorts {
        segment: 0,
        all: true,
        scopes: vec![],
    };
    assert_eq!(dmar.ats_ports, [ports]);
}

#[test]
fn a_laptop_has_a_unit_for_graphics_and_one_for_the_rest() {
    let dmar = machines::skylake().parse().unwrap();
    let flags = PlatformFlags::INTERRUPT_REMAPPING | PlatformFlags::X2APIC_OPT_OUT;
    assert_eq!((dmar.address_width, dmar.flags), (39, flags));
    let unit = |device, function| {
        registers(dmar.unit_of(0, id(0, device, function), &flat)).unwrap_or_default()
    };
    assert_eq!(unit(2, 0), 0xfed9_0000);
    assert_eq!(unit(0x14, 0), 0xfed9_1000);
    assert_eq!(unit(0x15, 1), 0xfed9_1000);
    assert_eq!(dmar.io_apic(2, &flat).unwrap().1, id(0xf0, 0x1f, 0));
    assert_eq!(dmar.hpet(0, &flat).unwrap().1, id(0, 0x1f, 0));
    assert_eq!(dmar.io_apic(3, &flat), None);
    let names: Vec<_> = dmar.named.iter().map(|device| &device.path[..]).collect();
    assert_eq!(names, ["\\_SB.PCI0.I2C0", "\\_SB.PCI0.I2C1"]);
    assert_eq!(dmar.warnings, []);
}

#[test]
fn a_reserved_region_is_for_the_device_that_names_it_alone() {
    let dmar = machines::skylake().parse().unwrap();
    let of = |source| -> Vec<_> {
        dmar.regions_of(0, source, &flat)
            .map(|region| (region.base.0, region.limit.0))
            .collect()
    };
    assert_eq!(of(id(0, 0x14, 0)), [(0x7115_5000, 0x7117_4fff)]);
    assert_eq!(of(id(0, 2, 0)), [(0x7380_0000, 0x7fff_ffff)]);
    assert_eq!(of(id(0, 0x1f, 0)), []);
    assert_eq!(dmar.regions_of(1, id(0, 2, 0), &flat).count(), 0);
}

#[test]
fn thunderbolt_ports_have_units_for_what_is_plugged_in() {
    let dmar = machines::tiger_lake().parse().unwrap();
    let plugged = |_, at: SourceId| match at {
        _ if at == id(0, 7, 0) => Some(buses(1, 0x2a)),
        _ if at == id(0, 7, 1) => Some(buses(0x2b, 0x54)),
        _ => None,
    };
    let unit = |source| registers(dmar.unit_of(0, source, &plugged));
    assert_eq!(unit(id(0, 7, 0)), Some(0xfed8_4000));
    assert_eq!(unit(id(0x2a, 0, 0)), Some(0xfed8_4000));
    assert_eq!(unit(id(0x2b, 0, 0)), Some(0xfed8_5000));
    assert_eq!(unit(id(0x55, 0, 0)), Some(0xfed9_1000));
}

#[test]
fn an_soc_states_window_sizes_caches_and_properties() {
    let dmar = machines::caching_soc().parse().unwrap();
    assert!(dmar.units.iter().all(|unit| unit.size == 64 << 10));
    let [caches] = &dmar.caches[..] else {
        panic!("{:?}", dmar.caches);
    };
    assert!(caches.required);
    assert_eq!(caches.scopes.len(), 3);
    let flags: Vec<_> = dmar.properties[0]
        .scopes
        .iter()
        .map(|scope| scope.flags)
        .collect();
    let last = ScopeFlags::NO_PAGE_SNOOP | ScopeFlags::CACHE_HARDENED | ScopeFlags::CACHE_REQUIRED;
    assert_eq!(flags, [ScopeFlags::all(), ScopeFlags::all(), last]);
    assert_eq!(dmar.warnings, []);
}

#[test]
fn a_workstation_has_several_io_apics_behind_one_unit() {
    let dmar = machines::haswell_ep().parse().unwrap();
    let source = |io_apic| dmar.io_apic(io_apic, &flat).map(|(_, source)| source);
    assert_eq!(source(1), Some(id(0xf0, 0x1f, 7)));
    assert_eq!(source(2), Some(id(0, 5, 4)));
    assert_eq!(dmar.ats_ports[0].scopes.len(), 2);
    let affinity = Affinity {
        registers: Hpa(0xfbff_c000),
        domain: 0,
    };
    assert_eq!(dmar.affinities, [affinity]);
    assert_eq!(dmar.warnings, []);
}

#[test]
fn a_server_has_a_unit_for_each_root_complex() {
    let dmar = machines::two_sockets().parse().unwrap();
    assert_eq!((dmar.units.len(), dmar.affinities.len()), (5, 5));
    let complexes = |_, at: SourceId| match (at.bus(), at.device(), at.function()) {
        (0x17, 0, 0) => Some(buses(0x18, 0x1a)),
        (0x85, 0, 0) => Some(buses(0x86, 0x86)),
        _ => None,
    };
    let unit = |source| registers(dmar.unit_of(0, source, &complexes));
    assert_eq!(unit(id(0x18, 0, 1)), Some(0xaaff_c000));
    assert_eq!(unit(id(0x86, 0, 0)), Some(0xe0ff_c000));
    assert_eq!(unit(id(0x80, 4, 7)), Some(0xd37f_c000));
    assert_eq!(unit(id(0, 0x14, 0)), Some(0x9d7f_c000));
    assert_eq!(
        registers(dmar.io_apic(0x11, &flat).map(|found| found.0)),
        Some(0xee7f_c000)
    );
    assert_eq!(dmar.warnings, []);
}

#[test]
fn segments_do_not_see_each_others_units() {
    let dmar = machines::two_segments().parse().unwrap();
    let unit = |segment, source| registers(dmar.unit_of(segment, source, &flat));
    assert_eq!(unit(0, id(0, 3, 0)), Some(0x1000_0000_0000));
    assert_eq!(unit(1, id(0, 3, 0)), Some(0x1000_0020_0000));
    assert_eq!(unit(2, id(0, 3, 0)), None);
}

fn buses(secondary: u8, subordinate: u8) -> Buses {
    Buses {
        secondary,
        subordinate,
    }
}
