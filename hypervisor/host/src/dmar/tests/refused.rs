//! What is refused, and what is only noted.

use super::*;

#[test]
fn a_table_that_is_not_whole_is_refused() {
    let bytes = small().bytes();
    let mut long = bytes.clone();
    long.push(0);
    let mut other = bytes.clone();
    other[..4].copy_from_slice(b"APIC");
    let mut flipped = bytes.clone();
    flipped[20] ^= 1;
    let stated = bytes.len() as u32;
    let bad_length = |held| Err(DmarError::BadLength { stated, held });
    assert_eq!(Dmar::parse(&long), bad_length(bytes.len() + 1));
    assert_eq!(Dmar::parse(&bytes[..60]), bad_length(60));
    assert_eq!(
        Dmar::parse(&[]),
        Err(DmarError::BadLength { stated: 0, held: 0 })
    );
    assert_eq!(Dmar::parse(&other), Err(DmarError::NotDmar));
    assert!(matches!(
        Dmar::parse(&flipped),
        Err(DmarError::BadChecksum(_))
    ));
}

#[test]
fn a_table_beyond_sense_is_refused() {
    let table = small().raw(&vec![0; MAX_LENGTH]);
    assert!(matches!(table.parse(), Err(DmarError::BadLength { .. })));
}

#[test]
fn address_widths_that_no_platform_has_are_refused() {
    let with = |field| {
        Builder::new(field, 0)
            .drhd(1, 0, 0, 0xd000_0000, &[])
            .parse()
    };
    assert_eq!(with(30), Err(DmarError::AddressWidth(31)));
    assert_eq!(with(57), Err(DmarError::AddressWidth(58)));
    assert_eq!(with(255), Err(DmarError::AddressWidth(256)));
    assert_eq!(with(31).map(|dmar| dmar.address_width), Ok(32));
    assert_eq!(with(56).map(|dmar| dmar.address_width), Ok(57));
}

#[test]
fn a_table_without_units_is_refused() {
    let empty = Builder::new(38, 0).parse();
    assert_eq!(empty, Err(DmarError::NoUnits));
    let ports = Builder::new(38, 0).atsr(1, 0, &[]).parse();
    assert_eq!(ports, Err(DmarError::NoUnits));
}

#[test]
fn an_impossible_length_is_refused_because_a_unit_may_follow() {
    let entries: [&[u8]; 5] = [
        &[2, 0, 0, 0, 1],
        &[9, 0, 3, 0],
        &[9, 0, 9, 0, 0, 0, 0, 0],
        &[0, 0, 0, 0, 0, 0, 16, 0],
        &[9, 0, 4],
    ];
    for entry in entries {
        let table = small();
        let offset = table.offset();
        let refused = Err(DmarError::BrokenChain { offset });
        assert_eq!(table.raw(entry).parse(), refused, "{entry:?}");
    }
}

#[test]
fn zeros_at_the_end_are_noted() {
    for count in [1, 2, 3, 4, 17] {
        let table = small();
        let offset = table.offset();
        let dmar = table.raw(&vec![0; count]).parse().unwrap();
        assert_eq!(dmar.warnings, [Warning::Padding { offset }]);
        assert_eq!(dmar.units.len(), 1);
    }
}

/// What a second entry of a small table is refused for.
fn fault(kind: EntryKind, add: impl Fn(Builder) -> Builder) -> Fault {
    let table = small();
    let start = table.offset();
    match add(table).parse() {
        Err(DmarError::BadEntry {
            offset,
            kind: found,
            fault,
        }) => {
            assert_eq!((offset, found), (start, kind));
            fault
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_unit_that_cannot_be_read_is_refused() {
    let at = |registers| fault(EntryKind::Drhd, |table| table.drhd(0, 0, 1, registers, &[]));
    assert_eq!(at(0), Fault::Registers(Hpa(0)));
    assert_eq!(at(0xfeda_0800), Fault::Registers(Hpa(0xfeda_0800)));
    assert_eq!(at(1 << 39), Fault::BeyondWidth(Hpa(1 << 39)));
    assert_eq!(
        at(u64::MAX - 4095),
        Fault::BeyondWidth(Hpa(u64::MAX - 4095))
    );
    let last = (1 << 39) - 4096;
    let two_pages = fault(EntryKind::Drhd, |table| table.drhd(0, 1, 1, last, &[]));
    assert_eq!(two_pages, Fault::BeyondWidth(Hpa(last)));
    let short = fault(EntryKind::Drhd, |table| {
        table.raw(&[0, 0, 8, 0, 1, 0, 0, 0])
    });
    assert_eq!(short, Fault::TooShort);
}

#[test]
fn a_units_scope_that_cannot_be_read_is_refused() {
    let with = |scope: &[u8]| {
        fault(EntryKind::Drhd, |table| {
            table.drhd(0, 0, 0, 0x1000_0000, &[endpoint(0, 2, 0), scope.to_vec()])
        })
    };
    let at = small().offset() + 16 + 8;
    assert_eq!(with(&[1, 10, 0, 0, 0, 0, 2, 0]), Fault::ScopeLength(at));
    assert_eq!(with(&[1, 6, 0, 0, 0, 0]), Fault::ScopeLength(at));
    assert_eq!(with(&[1, 0, 0, 0, 0, 0, 2, 0]), Fault::ScopeLength(at));
    assert_eq!(with(&[1]), Fault::ScopeLength(at));
    assert_eq!(with(&[1, 7, 0, 0, 0, 0, 2]), Fault::ScopePath(at));
    assert_eq!(with(&[1, 8, 0, 0, 0, 0, 32, 0]), Fault::ScopePath(at));
    assert_eq!(with(&[2, 8, 0, 0, 0, 0, 0, 8]), Fault::ScopePath(at));
}

#[test]
fn a_reserved_region_that_cannot_be_read_is_refused() {
    let of = |base, limit| {
        let device = [endpoint(0, 2, 0)];
        fault(EntryKind::Rmrr, |table| table.rmrr(base, limit, &device))
    };
    for (base, limit) in [
        (0x1800, 0x2fff),
        (0x1000, 0x2000),
        (0x3000, 0x1fff),
        (0x1000, 0xfff),
    ] {
        let (base_at, limit_at) = (Hpa(base), Hpa(limit));
        let refused = Fault::Region {
            base: base_at,
            limit: limit_at,
        };
        assert_eq!(of(base, limit), refused);
    }
    assert_eq!(of(0x1000, u64::MAX), Fault::BeyondWidth(Hpa(u64::MAX)));
    let short = fault(EntryKind::Rmrr, |table| table.entry(1, &[&[0; 19]], &[]));
    assert_eq!(short, Fault::TooShort);
}

#[test]
fn a_region_that_was_not_filled_in_is_noted() {
    let table = small();
    let offset = table.offset();
    let dmar = table.rmrr(0, 0, &[endpoint(0, 2, 0)]).parse().unwrap();
    assert_eq!(dmar.warnings, [Warning::EmptyRegion { offset }]);
    assert!(dmar.reserved.is_empty());
}

#[test]
fn overlapping_registers_are_refused() {
    let overlap = |size, second| {
        Builder::new(38, 0)
            .drhd(0, size, 0, 0x1000_0000, &[endpoint(0, 2, 0)])
            .drhd(1, 0, 0, second, &[])
            .parse()
    };
    let refused = |second| {
        Err(DmarError::UnitsOverlap {
            first: Hpa(0x1000_0000),
            second: Hpa(second),
        })
    };
    assert_eq!(overlap(0, 0x1000_0000), refused(0x1000_0000));
    assert_eq!(overlap(4, 0x1000_f000), refused(0x1000_f000));
    assert!(overlap(4, 0x1001_0000).is_ok());
    assert!(overlap(0, 0x1000_1000).is_ok());
}

#[test]
fn a_reserved_region_over_a_unit_is_refused() {
    let with = |base, limit| small().rmrr(base, limit, &[endpoint(0, 2, 0)]).parse();
    let refused = Err(DmarError::RegionOverUnit {
        base: Hpa(0xfed8_0000),
        registers: Hpa(0xfed9_0000),
    });
    assert_eq!(with(0xfed8_0000, 0xfed9_0fff), refused);
    assert!(with(0xfed8_0000, 0xfed8_ffff).is_ok());
    assert!(with(0xfed9_1000, 0xfed9_1fff).is_ok());
}

#[test]
fn two_units_for_all_the_rest_of_a_segment_are_refused() {
    let second = |segment| small().drhd(1, 0, segment, 0x1000_0000, &[]).parse();
    let refused = Err(DmarError::TwoCatchAlls {
        segment: 0,
        first: Hpa(0xfed9_0000),
        second: Hpa(0x1000_0000),
    });
    assert_eq!(second(0), refused);
    assert!(second(1).is_ok());
}

#[test]
fn a_unit_behind_the_segments_last_is_noted_and_has_its_devices() {
    let dmar = small()
        .drhd(0, 0, 0, 0x1000_0000, &[endpoint(0, 2, 0)])
        .parse()
        .unwrap();
    assert_eq!(dmar.warnings, [Warning::CatchAllNotLast { segment: 0 }]);
    let unit = registers(dmar.unit_of(0, id(0, 2, 0), &flat));
    assert_eq!(unit, Some(0x1000_0000));
}

#[test]
fn what_safety_does_not_need_is_skipped_by_name() {
    let skipped = |kind, fault, entry: &[u8]| {
        let table = small();
        let offset = table.offset();
        let dmar = table.raw(entry).atsr(1, 0, &[]).parse().unwrap();
        let warning = Warning::BadEntry {
            offset,
            kind,
            fault,
        };
        assert_eq!(dmar.warnings, [warning], "{entry:?}");
        assert_eq!(dmar.ats_ports.len(), 1, "reading goes on behind it");
        assert!(dmar.affinities.is_empty() && dmar.named.is_empty());
    };
    skipped(EntryKind::Atsr, Fault::TooShort, &[2, 0, 6, 0, 0, 0]);
    skipped(EntryKind::Rhsa, Fault::TooShort, &[3, 0, 8, 0, 0, 0, 0, 0]);
    skipped(EntryKind::Andd, Fault::TooShort, &[4, 0, 4, 0]);
    skipped(
        EntryKind::Andd,
        Fault::Name,
        &[4, 0, 10, 0, 0, 0, 0, 1, b'\\', b'_'],
    );
    skipped(
        EntryKind::Andd,
        Fault::Name,
        &[4, 0, 10, 0, 0, 0, 0, 1, 0xff, 0],
    );
    skipped(EntryKind::Andd, Fault::Name, &[4, 0, 9, 0, 0, 0, 0, 1, 0]);
    skipped(EntryKind::Satc, Fault::TooShort, &[5, 0, 7, 0, 0, 0, 0]);
    let scope_at = small().offset() + 8;
    let broken = Fault::ScopeLength(scope_at);
    skipped(EntryKind::Sidp, broken, &[6, 0, 10, 0, 0, 0, 0, 0, 1, 8]);
}

#[test]
fn types_of_the_future_are_skipped_by_number() {
    let table = small();
    let offset = table.offset();
    let dmar = table.entry(0x1234, &[&[7; 9]], &[]).parse().unwrap();
    let kind = 0x1234;
    assert_eq!(dmar.warnings, [Warning::UnknownEntry { offset, kind }]);
}

#[test]
fn scopes_of_the_future_claim_nothing() {
    let table = Builder::new(38, 0);
    let offset = table.offset() + 16;
    let scopes = [scope(9, 1, 0, &[(2, 0)]), vec![9, 7, 0, 0, 0, 0, 1]];
    let dmar = table.drhd(0, 0, 0, 0x1000_0000, &scopes).parse().unwrap();
    let kind = 9;
    let second = Warning::UnknownScope {
        offset: offset + 8,
        kind,
    };
    assert_eq!(
        dmar.warnings,
        [Warning::UnknownScope { offset, kind }, second]
    );
    assert_eq!(dmar.units[0].scopes.len(), 1);
    assert_eq!(dmar.units[0].scopes[0].kind, ScopeKind::Unknown(9));
    assert_eq!(dmar.unit_of(0, id(0, 2, 0), &flat), None);
}

#[test]
fn zeros_behind_the_scopes_are_noted() {
    let table = Builder::new(38, 0);
    let offset = table.offset() + 16 + 8;
    let scopes = [endpoint(0, 2, 0), vec![0; 4]];
    let dmar = table.drhd(0, 0, 0, 0x1000_0000, &scopes).parse().unwrap();
    assert_eq!(dmar.warnings, [Warning::Padding { offset }]);
    assert_eq!(dmar.units[0].scopes.len(), 1);
}

#[test]
fn odd_but_harmless_tables_are_noted() {
    let (first, second) = (Hpa(0x1000_0000), Hpa(0x2000_0000));
    let dmar = Builder::new(38, 0)
        .drhd(0, 0, 0, first.0, &[endpoint(0, 2, 0)])
        .drhd(
            0,
            0,
            0,
            second.0,
            &[endpoint(0, 2, 0), scope(5, 7, 0, &[(3, 0)])],
        )
        .drhd(0, 0, 0, 0x3000_0000, &[])
        .rmrr(0x1000, 0x1fff, &[])
        .rhsa(0x4000_0000, 0)
        .parse()
        .unwrap();
    let (unit, region) = (FIRST_ENTRY + 24 + 32, FIRST_ENTRY + 24 + 32 + 16);
    let nobody = |offset, kind| Warning::NoScope { offset, kind };
    let expected = [
        nobody(unit, EntryKind::Drhd),
        nobody(region, EntryKind::Rmrr),
        Warning::SharedScope { first, second },
        Warning::NoSuchUnit(Hpa(0x4000_0000)),
        Warning::Undeclared(7),
    ];
    assert_eq!(dmar.warnings, expected);
    assert_eq!(
        registers(dmar.unit_of(0, id(0, 2, 0), &flat)),
        Some(first.0)
    );
}

#[test]
fn warnings_are_counted_once_there_are_many() {
    let unknown = [9, 0, 4, 0].repeat(MAX_WARNINGS + 5);
    let dmar = small().raw(&unknown).parse().unwrap();
    assert_eq!(dmar.warnings.len(), MAX_WARNINGS + 1);
    assert_eq!(dmar.warnings.last(), Some(&Warning::Further(5)));
}

#[test]
fn messages_say_what_and_where() {
    let error = DmarError::BadEntry {
        offset: 72,
        kind: EntryKind::Drhd,
        fault: Fault::Registers(Hpa(0)),
    };
    assert_eq!(
        error.to_string(),
        "ACPI DMAR table: DRHD at offset 72: no registers can be at 0x0; \
         the firmware is broken, look for an update of it"
    );
    let warning = Warning::BadEntry {
        offset: 72,
        kind: EntryKind::Andd,
        fault: Fault::Name,
    };
    assert_eq!(
        warning.to_string(),
        "ACPI DMAR table: ANDD at offset 72 skipped: its ACPI path is not text"
    );
}
