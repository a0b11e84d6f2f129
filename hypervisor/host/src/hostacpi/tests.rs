//! Tables of a machine that does not exist, whole and broken.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const RSDP: u64 = 0xf_0000;
const RSDT_AT: u64 = 0x1_0000;
const XSDT_AT: u64 = 0x1_1000;
const FADT_AT: u64 = 0x1_2000;
const MADT_AT: u64 = 0x1_3000;
const DSDT_AT: u64 = 0x2_0000;
const SSDT_AT: u64 = 0x3_0000;
const DMAR_AT: u64 = 0x1_5000;

/// Memory as pieces; whatever lies in none of them is unreadable.
#[derive(Clone, Default)]
struct Pieces(BTreeMap<u64, Vec<u8>>);

impl HostPhys for Pieces {
    fn read(&mut self, at: Hpa, into: &mut [u8]) -> bool {
        let Some((start, bytes)) = self.0.range(..=at.0).next_back() else {
            return false;
        };
        let offset = (at.0 - start) as usize;
        match bytes.get(offset..).and_then(|rest| rest.get(..into.len())) {
            Some(found) => {
                into.copy_from_slice(found);
                true
            }
            None => false,
        }
    }
}

fn seal(bytes: &mut [u8], checksum_at: usize) {
    bytes[checksum_at] = 0;
    bytes[checksum_at] = 0u8.wrapping_sub(sum(bytes));
}

fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_LEN];
    bytes[..4].copy_from_slice(signature);
    bytes[4..8].copy_from_slice(&((HEADER_LEN + body.len()) as u32).to_le_bytes());
    bytes.extend(body);
    seal(&mut bytes, 9);
    bytes
}

fn rsdp(revision: u8) -> Vec<u8> {
    let mut bytes = vec![0; 36];
    bytes[..8].copy_from_slice(b"RSD PTR ");
    bytes[15] = revision;
    bytes[16..20].copy_from_slice(&(RSDT_AT as u32).to_le_bytes());
    bytes[20] = 36;
    bytes[24..32].copy_from_slice(&XSDT_AT.to_le_bytes());
    seal(&mut bytes[..20], 8);
    seal(&mut bytes, 32);
    bytes
}

fn fadt() -> Vec<u8> {
    let mut bytes = vec![0; 276];
    let mut put = |at: usize, data: &[u8]| bytes[at..at + data.len()].copy_from_slice(data);
    put(40, &(DSDT_AT as u32).to_le_bytes());
    put(46, &9u16.to_le_bytes());
    put(48, &0xb2u32.to_le_bytes());
    put(52, &[0xf1, 0xf0]);
    put(64, &0x404u32.to_le_bytes());
    put(76, &0x408u32.to_le_bytes());
    put(109, &0b11u16.to_le_bytes());
    put(112, &(1u32 << 10).to_le_bytes());
    put(116, &[1, 8, 0, 1]);
    put(120, &0xcf9u64.to_le_bytes());
    put(128, &[6]);
    put(172, &[1, 16, 0, 2]);
    put(176, &0x604u64.to_le_bytes());
    table(b"FACP", &bytes[HEADER_LEN..])
}

fn madt() -> Vec<u8> {
    let mut body = vec![0, 0, 0xe0, 0xfe, 1, 0, 0, 0];
    body.extend([0, 8, 0, 0, 1, 0, 0, 0]);
    body.extend([0, 8, 1, 2, 0, 0, 0, 0]);
    body.extend([9, 16, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
    body.extend([9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0]);
    body.extend([1, 12, 3, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    body.extend([2, 10, 0, 0, 2, 0, 0, 0, 5, 0]);
    body.extend([4, 6, 0xff, 0, 0, 1]);
    body.extend([5, 12, 0, 0, 0, 0, 0xe1, 0xfe, 0, 0, 0, 0]);
    table(b"APIC", &body)
}

/// AML that ends with `\_S5_`, so long before that it crosses the border of two pieces.
fn dsdt(filling: usize, s5: &[u8]) -> Vec<u8> {
    let mut body = vec![0xa5; filling];
    body.extend(s5);
    body.extend([0xa5; 40]);
    table(b"DSDT", &body)
}

const S5: &[u8] = &[
    8, b'_', b'S', b'5', b'_', 0x12, 7, 4, 0x0a, 5, 0x0a, 6, 0, 0,
];

fn pointers(list: &[u64], width: usize) -> Vec<u8> {
    list.iter()
        .flat_map(|at| at.to_le_bytes().into_iter().take(width))
        .collect()
}

fn machine() -> Pieces {
    let tables = [FADT_AT, 0, MADT_AT, DMAR_AT];
    Pieces(BTreeMap::from([
        (RSDP, rsdp(2)),
        (XSDT_AT, table(b"XSDT", &pointers(&tables, 8))),
        (RSDT_AT, table(b"RSDT", &pointers(&tables[..3], 4))),
        (FADT_AT, fadt()),
        (MADT_AT, madt()),
        (DSDT_AT, dsdt(500, S5)),
        (DMAR_AT, table(b"DMAR", &[0; 12])),
    ]))
}

fn read(mut memory: Pieces) -> HostAcpi {
    HostAcpi::read(&mut memory, Hpa(RSDP)).unwrap()
}

fn reference(signature: &[u8; 4], at: u64, length: u32) -> TableRef {
    TableRef {
        signature: Signature(*signature),
        at: Hpa(at),
        length,
    }
}

#[test]
fn whole_machine_gives_all_facts_and_no_warning() {
    let facts = read(machine());
    assert_eq!(facts.warnings, []);
    let fadt = facts.fadt.unwrap();
    assert_eq!(fadt.pm1a_control.unwrap().port(), Some(0x604));
    assert_eq!(fadt.pm1b_control, None);
    assert_eq!(fadt.pm_timer.unwrap().port(), Some(0x408));
    let (reset, value) = fadt.reset.unwrap();
    assert_eq!((reset.port(), reset.bit_width, value), (Some(0xcf9), 8, 6));
    assert_eq!(
        fadt.smi_handover,
        Some(SmiHandover {
            port: 0xb2,
            enable: 0xf1
        })
    );
    assert_eq!(fadt.sci_interrupt, 9);
    assert_eq!(
        fadt.boot_flags,
        BootFlags::LEGACY_DEVICES | BootFlags::KEYBOARD_8042
    );
    assert!(!fadt.hardware_reduced);
    assert_eq!(facts.power_off, Some(SleepType { a: 5, b: 6 }));
    assert_eq!(facts.dmar, Some(reference(b"DMAR", DMAR_AT, 48)));
    assert_eq!((facts.tpm2, facts.mcfg), (None, None));
}

#[test]
fn madt_lists_each_processor_once() {
    let madt = read(machine()).madt.unwrap();
    let processor = |apic_id, uid, enabled| Processor {
        apic_id,
        uid,
        enabled,
    };
    assert_eq!(
        madt.processors,
        [
            processor(0, 0, true),
            processor(2, 1, true),
            processor(256, 7, true)
        ]
    );
    assert_eq!(
        madt.io_apics,
        [IoApic {
            id: 3,
            at: Hpa(0xfec0_0000),
            first_gsi: 0
        }]
    );
    assert_eq!(
        madt.overrides,
        [InterruptOverride {
            isa: 0,
            gsi: 2,
            flags: 5
        }]
    );
    assert_eq!((madt.local_apic, madt.has_pic), (Hpa(0xfee1_0000), true));
}

#[test]
fn revision_0_uses_the_rsdt() {
    let mut memory = machine();
    memory.0.insert(RSDP, rsdp(0)[..20].to_vec());
    let facts = read(memory);
    assert!(facts.fadt.is_some() && facts.dmar.is_none());
    assert_eq!(facts.warnings, []);
}

#[test]
fn broken_xsdt_falls_back_to_the_rsdt_with_a_warning() {
    let mut memory = machine();
    memory.0.get_mut(&XSDT_AT).unwrap()[20] ^= 1;
    let facts = read(memory);
    assert!(facts.fadt.is_some());
    assert_eq!(
        facts.warnings,
        [Warning::BadChecksum(reference(b"XSDT", XSDT_AT, 68))]
    );
}

#[test]
fn no_root_at_all_is_an_error() {
    let mut memory = machine();
    assert_eq!(
        HostAcpi::read(&mut memory, Hpa(RSDP + 1)),
        Err(AcpiError::BadRsdp(Hpa(RSDP + 1)))
    );
    assert!(HostAcpi::read(&mut memory, Hpa(u64::MAX)).is_err());
    memory.0.get_mut(&RSDP).unwrap()[17] ^= 4;
    assert_eq!(
        HostAcpi::read(&mut memory, Hpa(RSDP)),
        Err(AcpiError::BadRsdp(Hpa(RSDP)))
    );
    let mut memory = machine();
    memory.0.remove(&XSDT_AT);
    memory.0.remove(&RSDT_AT);
    assert_eq!(
        HostAcpi::read(&mut memory, Hpa(RSDP)),
        Err(AcpiError::NoRootTable)
    );
}

#[test]
fn malformed_tables_are_skipped_and_named() {
    let mut memory = machine();
    memory.0.get_mut(&FADT_AT).unwrap()[60] ^= 0x10;
    memory.0.get_mut(&MADT_AT).unwrap()[4] = 8;
    memory.0.remove(&DMAR_AT);
    let facts = read(memory);
    let (fadt, madt) = (Signature(*b"FACP"), Signature(*b"APIC"));
    assert_eq!(
        facts.warnings,
        [
            Warning::BadChecksum(reference(b"FACP", FADT_AT, 276)),
            Warning::BadLength(reference(b"APIC", MADT_AT, 8)),
            Warning::Unreadable(Hpa(DMAR_AT)),
            Warning::Missing(fadt),
            Warning::Missing(madt),
        ]
    );
    let text = facts.warnings[0].to_string();
    assert_eq!(
        text,
        "ACPI table FACP at 0x12000 has a bad checksum, skipped"
    );
}

#[test]
fn absurd_lengths_are_refused_without_reading_that_much() {
    for length in [0, 35, 4 << 20 | 1, u32::MAX] {
        let mut memory = machine();
        memory.0.get_mut(&DMAR_AT).unwrap()[4..8].copy_from_slice(&length.to_le_bytes());
        assert_eq!(
            read(memory).warnings,
            [Warning::BadLength(reference(b"DMAR", DMAR_AT, length))]
        );
    }
    let mut memory = machine();
    memory.0.get_mut(&DMAR_AT).unwrap()[4..8].copy_from_slice(&100_000u32.to_le_bytes());
    assert_eq!(read(memory).warnings, [Warning::Unreadable(Hpa(DMAR_AT))]);
}

#[test]
fn madt_entries_that_run_over_the_end_stop_the_list() {
    for entry in [&[0u8, 0, 0, 0][..], &[0, 1], &[0, 9, 0, 0], &[9]] {
        let mut body = vec![0; 8];
        body.extend([1, 12, 3, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
        body.extend(entry);
        let mut memory = machine();
        memory.0.insert(MADT_AT, table(b"APIC", &body));
        let facts = read(memory);
        let kind = entry[0];
        assert_eq!(facts.warnings, [Warning::BadMadtEntry { offset: 56, kind }]);
        assert_eq!(facts.madt.unwrap().io_apics.len(), 1);
    }
}

#[test]
fn madt_entries_too_short_for_their_kind_are_left_out() {
    let mut body = vec![0; 8];
    body.extend([9, 8, 0, 0, 1, 0, 0, 0]);
    body.extend([0, 8, 0, 4, 1, 0, 0, 0]);
    let mut memory = machine();
    memory.0.insert(MADT_AT, table(b"APIC", &body));
    let facts = read(memory);
    assert_eq!(
        facts.warnings,
        [Warning::BadMadtEntry {
            offset: 44,
            kind: 9
        }]
    );
    assert_eq!(facts.madt.unwrap().processors.len(), 1);
}

#[test]
fn a_table_of_errors_gives_few_warnings_and_their_number() {
    let entries = ((64 << 10) - 44) / 2;
    let mut body = vec![0; 8];
    body.extend([0, 2].repeat(entries));
    let mut memory = machine();
    let far = 0x10_0000;
    memory
        .0
        .insert(XSDT_AT, table(b"XSDT", &pointers(&[FADT_AT, far], 8)));
    memory.0.insert(far, table(b"APIC", &body));
    let warnings = read(memory).warnings;
    assert_eq!(warnings.len(), MAX_WARNINGS + 1);
    let further = Warning::Further(entries - MAX_WARNINGS);
    assert_eq!(warnings.last(), Some(&further));
    assert_eq!(
        further.to_string(),
        "32714 further warnings about ACPI tables"
    );
}

#[test]
fn only_so_many_madt_entries_of_a_kind_are_kept() {
    for (kind, length, kept) in [(1_u8, 12_u8, 256), (2, 10, 256)] {
        let entry: Vec<u8> = [kind, length]
            .into_iter()
            .chain((2..length).map(|_| 0))
            .collect();
        let mut body = vec![0; 8];
        body.extend(entry.repeat(300));
        let mut memory = machine();
        memory.0.insert(MADT_AT, table(b"APIC", &body));
        let facts = read(memory);
        let madt = facts.madt.unwrap();
        assert_eq!(madt.io_apics.len().max(madt.overrides.len()), kept);
        let offset = 44 + kept * usize::from(length);
        assert_eq!(
            facts.warnings[0],
            Warning::SurplusMadtEntry { offset, kind }
        );
        assert_eq!(
            facts.warnings.last(),
            Some(&Warning::Further(300 - 256 - MAX_WARNINGS))
        );
    }
}

#[test]
fn acpi_1_fadt_is_enough() {
    let mut memory = machine();
    let old = table(b"FACP", &fadt()[HEADER_LEN..116]);
    memory.0.insert(FADT_AT, old);
    let facts = read(memory);
    let fadt = facts.fadt.unwrap();
    assert_eq!(fadt.pm1a_control.unwrap().port(), Some(0x404));
    assert_eq!((fadt.reset, fadt.sleep_control), (None, None));
    assert_eq!(facts.power_off, Some(SleepType { a: 5, b: 6 }));
    let mut memory = machine();
    memory.0.insert(FADT_AT, table(b"FACP", &[0; 79]));
    let short = Warning::BadLength(reference(b"FACP", FADT_AT, 115));
    assert!(read(memory).warnings.contains(&short));
}

#[test]
fn s5_is_found_wherever_it_lies() {
    for filling in 900..1100 {
        let mut memory = machine();
        memory.0.insert(DSDT_AT, dsdt(filling, S5));
        assert_eq!(
            read(memory).power_off,
            Some(SleepType { a: 5, b: 6 }),
            "{filling}"
        );
    }
    let end_of_table = table(b"DSDT", S5);
    let mut memory = machine();
    memory.0.insert(DSDT_AT, end_of_table);
    assert!(read(memory).power_off.is_some());
}

#[test]
fn s5_is_understood_in_each_encoding() {
    let name = [8, b'\\', b'_', b'S', b'5', b'_', 0x12];
    let cases: [(&[u8], Option<SleepType>); 8] = [
        (&[6, 4, 0, 0, 0, 0], Some(SleepType { a: 0, b: 0 })),
        (&[6, 4, 1, 1, 0, 0], Some(SleepType { a: 1, b: 1 })),
        (
            &[0x4a, 0, 2, 0x0b, 7, 0, 0x0c, 3, 0, 0, 0],
            Some(SleepType { a: 7, b: 3 }),
        ),
        (&[4, 1, 0x0a, 5], Some(SleepType { a: 5, b: 5 })),
        (&[4, 0, 0x0a, 5], None),
        (&[5, 2, 0x0a, 8, 0], None),
        (&[6, 2, 0x0b, 5, 1, 0], None),
        (&[6, 2, 0x70, 0x70], None),
    ];
    for (encoding, expected) in cases {
        let mut memory = machine();
        memory
            .0
            .insert(DSDT_AT, dsdt(3, &[&name, encoding].concat()));
        let facts = read(memory);
        assert_eq!(facts.power_off, expected, "{encoding:?}");
        assert_eq!(
            facts.warnings.contains(&Warning::NoSleepType),
            expected.is_none()
        );
    }
}

#[test]
fn s5_may_be_in_an_ssdt() {
    let mut memory = machine();
    memory.0.insert(
        XSDT_AT,
        table(b"XSDT", &pointers(&[SSDT_AT, FADT_AT, MADT_AT], 8)),
    );
    memory.0.insert(DSDT_AT, dsdt(3, b"no package"));
    memory.0.insert(SSDT_AT, table(b"SSDT", S5));
    assert_eq!(read(memory).power_off, Some(SleepType { a: 5, b: 6 }));
}

#[test]
fn dsdt_that_is_none_is_named() {
    let mut memory = machine();
    memory.0.insert(DSDT_AT, table(b"XXXX", S5));
    let found = reference(b"XXXX", DSDT_AT, 50);
    let facts = read(memory);
    let expected = Signature(*b"DSDT");
    assert_eq!(
        facts.warnings,
        [
            Warning::WrongSignature { expected, found },
            Warning::NoSleepType
        ]
    );
}

#[test]
fn only_so_many_tables_are_read() {
    let mut memory = machine();
    let mut list = vec![0; 300];
    list[0] = FADT_AT;
    list[299] = MADT_AT;
    memory
        .0
        .insert(XSDT_AT, table(b"XSDT", &pointers(&list, 8)));
    let facts = read(memory);
    assert!(facts.fadt.is_some() && facts.madt.is_none());
    assert!(facts.warnings.contains(&Warning::TooManyTables(300)));
}

#[test]
fn power_off_value_keeps_other_control_bits() {
    assert_eq!(SleepType::pm1_control(0x1c01, 5), 0x3401);
    assert_eq!(SleepType::pm1_control(0, 0xff), 0x3c00);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn mutated_tables_never_panic(
        changes in prop::collection::vec((0usize..7, any::<prop::sample::Index>(), any::<u8>()), 1..16),
        repair in any::<bool>(),
    ) {
        let mut memory = machine();
        let addresses: Vec<u64> = memory.0.keys().copied().collect();
        for (piece, index, value) in changes {
            let at = addresses[piece];
            let bytes = memory.0.get_mut(&at).unwrap();
            let len = bytes.len();
            bytes[index.index(len)] = value;
            // With the checksums mended, the mutations reach the parsers behind them.
            if repair {
                match at {
                    RSDP => {
                        seal(&mut bytes[..20], 8);
                        seal(bytes, 32);
                    }
                    _ => seal(bytes, 9),
                }
            }
        }
        if let Ok(facts) = HostAcpi::read(&mut memory, Hpa(RSDP)) {
            prop_assert!(facts.power_off.is_none_or(|found| found.a <= 7 && found.b <= 7));
            for warning in &facts.warnings {
                prop_assert!(!warning.to_string().is_empty());
            }
        }
    }

    #[test]
    fn noise_in_place_of_each_table_never_panics(
        noise in prop::collection::vec(any::<u8>(), 0..600),
        which in 0usize..6,
    ) {
        let mut memory = machine();
        let places = [(FADT_AT, b"FACP"), (MADT_AT, b"APIC"), (DSDT_AT, b"DSDT"), (XSDT_AT, b"XSDT"), (RSDT_AT, b"RSDT"), (DMAR_AT, b"DMAR")];
        let (at, signature) = places[which];
        memory.0.insert(at, table(signature, &noise));
        if let Ok(facts) = HostAcpi::read(&mut memory, Hpa(RSDP)) {
            prop_assert!(facts.madt.is_none_or(|madt| madt.processors.len() * 8 <= noise.len().max(200)));
        }
    }
}
