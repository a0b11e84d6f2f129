//! Every paging mode, every access check, and tables that are nonsense.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const PS: u64 = 1 << 7;
const NX: u64 = 1 << 63;

const LONG: Paging = Paging {
    cr0: 1 << 31 | 1 << 16,
    cr3: 0x1000,
    cr4: 1 << 5,
    efer: 1 << 10 | 1 << 11,
    rflags: 0,
    physical_bits: 46,
    gigabyte_pages: true,
};
const PAE: Paging = Paging {
    efer: 1 << 11,
    cr3: 0x1020,
    ..LONG
};
const BITS32: Paging = Paging {
    efer: 0,
    cr4: 1 << 4,
    cr3: 0x1000,
    ..LONG
};
const SMEP: u64 = 1 << 20;
const SMAP: u64 = 1 << 21;

const READ: Access = Access {
    kind: AccessKind::Read,
    user: false,
    implicit: false,
};
const WRITE: Access = Access {
    kind: AccessKind::Write,
    ..READ
};
const FETCH: Access = Access {
    kind: AccessKind::Fetch,
    ..READ
};

const fn user(access: Access) -> Access {
    Access {
        user: true,
        ..access
    }
}

#[derive(Default)]
struct Memory {
    words: HashMap<u64, u64>,
    reads: usize,
}

impl GuestPhys for Memory {
    fn read_u64(&mut self, gpa: Gpa) -> Option<u64> {
        assert!(gpa.is_aligned(8));
        self.reads += 1;
        (gpa.0 < 0x10_0000).then(|| self.words.get(&gpa.0).copied().unwrap_or(0))
    }
}

fn memory(entries: &[(u64, u64)]) -> Memory {
    Memory {
        words: entries.iter().copied().collect(),
        reads: 0,
    }
}

/// Four levels mapping linear 0x1000 (index 1 at the bottom) by `leaf`, user and write allowed above it.
fn four_levels(leaf: u64) -> Memory {
    memory(&[
        (0x1000, 0x2000 | P | W | U),
        (0x2000, 0x3000 | P | W | U),
        (0x3000, 0x4000 | P | W | U),
        (0x4008, leaf),
    ])
}

fn code(result: Result<Translation, WalkError>) -> u32 {
    match result {
        Err(WalkError::PageFault { code, .. }) => code.bits(),
        other => panic!("no page fault: {other:?}"),
    }
}

#[test]
fn paging_off_is_identity_within_4_gib() {
    let paging = Paging { cr0: 0, ..LONG };
    let gpa = walk(&mut Memory::default(), &paging, Gva(0x1234_5678), WRITE)
        .unwrap()
        .gpa;
    assert_eq!(gpa, Gpa(0x1234_5678));
    let high = walk(&mut Memory::default(), &paging, Gva(1 << 32), READ);
    assert_eq!(high, Err(WalkError::NotCanonical(Gva(1 << 32))));
}

#[test]
fn four_level_walk_finds_each_page_size() {
    let mut small = four_levels(0x7_5000 | P);
    let found = walk(&mut small, &LONG, Gva(0x1abc), READ).unwrap();
    assert_eq!(
        found,
        Translation {
            gpa: Gpa(0x7_5abc),
            page_size: 4096
        }
    );
    assert_eq!(small.reads, 4);
    let mut large = memory(&[
        (0x1ff8, 0x2000 | P),
        (0x2ff0, 0x3000 | P),
        (0x3ff8, 0x4020_0000 | PS | P | 1 << 12),
        (0x2ff8, 0x1_4000_0000 | PS | P),
    ]);
    let found = walk(&mut large, &LONG, Gva(0xffff_ffff_bfe1_2345), READ).unwrap();
    assert_eq!(
        found,
        Translation {
            gpa: Gpa(0x4021_2345),
            page_size: 2 << 20
        }
    );
    let found = walk(&mut large, &LONG, Gva(0xffff_ffff_d234_5678), READ).unwrap();
    assert_eq!(
        found,
        Translation {
            gpa: Gpa(0x1_5234_5678),
            page_size: 1 << 30
        }
    );
}

#[test]
fn five_level_walk_adds_a_level() {
    let paging = Paging {
        cr4: LONG.cr4 | 1 << 12,
        cr3: 0x8000,
        ..LONG
    };
    let mut tables = four_levels(0x7_5000 | P);
    tables.words.insert(0x8000 + 8, 0x1000 | P);
    let found = walk(&mut tables, &paging, Gva((1 << 48) + 0x1008), READ).unwrap();
    assert_eq!((found.gpa, tables.reads), (Gpa(0x7_5008), 5));
    let beyond = Gva(1 << 56);
    assert_eq!(
        walk(&mut tables, &paging, beyond, READ),
        Err(WalkError::NotCanonical(beyond))
    );
}

#[test]
fn non_canonical_addresses_read_no_table() {
    let mut tables = four_levels(P);
    for gva in [1 << 47, 0xffff_7fff_ffff_ffff, 1 << 63].map(Gva) {
        assert_eq!(
            walk(&mut tables, &LONG, gva, READ),
            Err(WalkError::NotCanonical(gva))
        );
    }
    assert_eq!(tables.reads, 0);
}

#[test]
fn pae_walk_finds_both_page_sizes() {
    let mut tables = memory(&[
        (0x1020 + 3 * 8, 0x3000 | P),
        (0x3000 + 8, 0x4000 | P | W | U),
        (0x4000 + 2 * 8, 0x2_0000_5000 | P | NX),
        (0x3000 + 16, 0x3_4020_0000 | P | PS),
    ]);
    let found = walk(&mut tables, &PAE, Gva(0xc020_2fff), READ).unwrap();
    assert_eq!(
        found,
        Translation {
            gpa: Gpa(0x2_0000_5fff),
            page_size: 4096
        }
    );
    let found = walk(&mut tables, &PAE, Gva(0xc041_2345), FETCH).unwrap();
    assert_eq!(
        found,
        Translation {
            gpa: Gpa(0x3_4021_2345),
            page_size: 2 << 20
        }
    );
    assert_eq!(code(walk(&mut tables, &PAE, Gva(0xc020_2fff), FETCH)), 0x11);
    assert_eq!(code(walk(&mut tables, &PAE, Gva(0), READ)), 0);
}

#[test]
fn thirty_two_bit_walk_reads_both_halves_of_a_word() {
    // Directory entries 0 and 1 in one word; table entries 2 and 3 in one word.
    let mut tables = memory(&[
        (
            0x1000,
            (0x3000 | P | W | U) | (0x0040_0000 | 1 << 13 | PS | P) << 32,
        ),
        (0x3008, (0x5000 | P | W) | (0x6000 | P | U) << 32),
    ]);
    let at = |tables: &mut Memory, gva, access| walk(tables, &BITS32, Gva(gva), access);
    assert_eq!(at(&mut tables, 0x2010, WRITE).unwrap().gpa, Gpa(0x5010));
    assert_eq!(
        at(&mut tables, 0x3010, user(READ)).unwrap().gpa,
        Gpa(0x6010)
    );
    assert_eq!(code(at(&mut tables, 0x3010, user(WRITE))), 7);
    let four_mib = at(&mut tables, 0x0072_3456, READ).unwrap();
    assert_eq!(
        four_mib,
        Translation {
            gpa: Gpa(0x1_0072_3456),
            page_size: 4 << 20
        }
    );
}

#[test]
fn thirty_two_bit_large_pages_have_reserved_bits() {
    let with = |bits: u64, physical_bits| {
        let mut tables = memory(&[(0x1000, PS | P | bits)]);
        walk(
            &mut tables,
            &Paging {
                physical_bits,
                ..BITS32
            },
            Gva(0),
            READ,
        )
    };
    assert_eq!(code(with(1 << 21, 46)), 9);
    assert_eq!(code(with(1 << 17, 36)), 9);
    assert_eq!(with(1 << 16, 36).unwrap().gpa, Gpa(1 << 35));
    let no_pse = Paging { cr4: 0, ..BITS32 };
    let mut tables = memory(&[(0x1000, PS | P | 0x3000), (0x3000, 0x9000 | P)]);
    assert_eq!(
        walk(&mut tables, &no_pse, Gva(0), READ).unwrap().gpa,
        Gpa(0x9000)
    );
}

#[test]
fn absent_entries_fault_at_every_level_with_the_access_in_the_code() {
    for missing in [0x1000, 0x2000, 0x3000, 0x4008] {
        let mut tables = four_levels(0x5000 | P);
        tables.words.insert(missing, !P & 0xfff_f000);
        assert_eq!(code(walk(&mut tables, &LONG, Gva(0x1000), READ)), 0);
        assert_eq!(code(walk(&mut tables, &LONG, Gva(0x1000), user(WRITE))), 6);
        assert_eq!(
            code(walk(&mut tables, &LONG, Gva(0x1000), user(FETCH))),
            0x14
        );
    }
}

#[test]
fn reserved_bits_fault_at_every_level() {
    for level in [0x1000, 0x2000, 0x3000, 0x4008] {
        for bit in [46, 51] {
            let mut tables = four_levels(0x5000 | P);
            *tables.words.get_mut(&level).unwrap() |= 1 << bit;
            assert_eq!(code(walk(&mut tables, &LONG, Gva(0x1000), READ)), 9);
        }
        let no_nx = Paging {
            efer: 1 << 10,
            ..LONG
        };
        let mut tables = four_levels(0x5000 | P);
        *tables.words.get_mut(&level).unwrap() |= NX;
        assert_eq!(code(walk(&mut tables, &no_nx, Gva(0x1000), READ)), 9);
        assert!(walk(&mut tables, &LONG, Gva(0x1000), READ).is_ok());
        assert_eq!(code(walk(&mut tables, &LONG, Gva(0x1000), FETCH)), 0x11);
    }
}

#[test]
fn large_bit_is_reserved_where_the_level_has_no_large_pages() {
    let mut top = four_levels(0x5000 | P);
    *top.words.get_mut(&0x1000).unwrap() |= PS;
    assert_eq!(code(walk(&mut top, &LONG, Gva(0x1000), READ)), 9);
    let mut gigabyte = four_levels(0x5000 | P);
    gigabyte.words.insert(0x2000, PS | P);
    let without = Paging {
        gigabyte_pages: false,
        ..LONG
    };
    assert_eq!(code(walk(&mut gigabyte, &without, Gva(0x1000), READ)), 9);
    assert!(walk(&mut gigabyte, &LONG, Gva(0x1000), READ).is_ok());
    gigabyte.words.insert(0x2000, PS | P | 1 << 29);
    assert_eq!(code(walk(&mut gigabyte, &LONG, Gva(0x1000), READ)), 9);
    gigabyte.words.insert(0x2000, 0x3000 | P);
    gigabyte.words.insert(0x3000, PS | P | 1 << 13);
    assert_eq!(code(walk(&mut gigabyte, &LONG, Gva(0x1000), READ)), 9);
}

#[test]
fn pae_top_level_has_reserved_bits_and_no_rights() {
    for bit in [1, 2, 5, 6, 8, 46, 52, 62, 63] {
        let mut tables = memory(&[(0x1020, 0x3000 | P | 1 << bit), (0x3000, PS | P)]);
        assert_eq!(code(walk(&mut tables, &PAE, Gva(0), READ)), 9, "bit {bit}");
    }
    let mut tables = memory(&[(0x1020, 0x3000 | P), (0x3000, PS | P | W | U)]);
    assert!(walk(&mut tables, &PAE, Gva(0), user(WRITE)).is_ok());
}

#[test]
fn one_level_is_enough_to_take_a_right_away() {
    for level in [0x1000, 0x2000, 0x3000, 0x4008] {
        let mut tables = four_levels(0x5000 | P | W | U);
        assert!(walk(&mut tables, &LONG, Gva(0x1000), user(WRITE)).is_ok());
        *tables.words.get_mut(&level).unwrap() &= !W;
        assert_eq!(code(walk(&mut tables, &LONG, Gva(0x1000), user(WRITE))), 7);
        assert!(walk(&mut tables, &LONG, Gva(0x1000), user(READ)).is_ok());
        *tables.words.get_mut(&level).unwrap() &= !U;
        assert_eq!(code(walk(&mut tables, &LONG, Gva(0x1000), user(READ))), 5);
        assert_eq!(
            code(walk(&mut tables, &LONG, Gva(0x1000), user(FETCH))),
            0x15
        );
    }
}

#[test]
fn supervisor_writes_to_read_only_pages_need_wp_off() {
    let mut tables = four_levels(0x5000 | P);
    assert_eq!(code(walk(&mut tables, &LONG, Gva(0x1000), WRITE)), 3);
    let unprotected = Paging {
        cr0: 1 << 31,
        ..LONG
    };
    assert!(walk(&mut tables, &unprotected, Gva(0x1000), WRITE).is_ok());
    tables.words.insert(0x4008, 0x5000 | P | U);
    assert_eq!(
        code(walk(&mut tables, &unprotected, Gva(0x1000), user(WRITE))),
        7
    );
}

#[test]
fn smep_stops_supervisor_fetches_from_user_pages_only() {
    let paging = Paging {
        cr4: LONG.cr4 | SMEP,
        ..LONG
    };
    let mut tables = four_levels(0x5000 | P | U);
    assert_eq!(code(walk(&mut tables, &paging, Gva(0x1000), FETCH)), 0x11);
    assert!(walk(&mut tables, &paging, Gva(0x1000), user(FETCH)).is_ok());
    assert!(walk(&mut tables, &LONG, Gva(0x1000), FETCH).is_ok());
    tables.words.insert(0x4008, 0x5000 | P);
    assert!(walk(&mut tables, &paging, Gva(0x1000), FETCH).is_ok());
}

#[test]
fn smap_stops_supervisor_data_accesses_to_user_pages_unless_ac_is_set() {
    let paging = Paging {
        cr4: LONG.cr4 | SMAP,
        ..LONG
    };
    let with_ac = Paging {
        rflags: 1 << 18,
        ..paging
    };
    let mut tables = four_levels(0x5000 | P | W | U);
    assert_eq!(code(walk(&mut tables, &paging, Gva(0x1000), READ)), 1);
    assert_eq!(code(walk(&mut tables, &paging, Gva(0x1000), WRITE)), 3);
    assert!(walk(&mut tables, &with_ac, Gva(0x1000), WRITE).is_ok());
    let implicit = Access {
        implicit: true,
        ..user(READ)
    };
    assert_eq!(code(walk(&mut tables, &with_ac, Gva(0x1000), implicit)), 1);
    assert!(walk(&mut tables, &paging, Gva(0x1000), user(READ)).is_ok());
}

#[test]
fn fetches_are_not_told_apart_without_nx_and_smep() {
    let paging = Paging {
        efer: 1 << 10,
        ..LONG
    };
    let mut tables = four_levels(0x5000 | P);
    assert_eq!(
        code(walk(&mut tables, &paging, Gva(0x1000), user(FETCH))),
        5
    );
    let smep = Paging {
        cr4: LONG.cr4 | SMEP,
        ..paging
    };
    assert_eq!(
        code(walk(&mut tables, &smep, Gva(0x1000), user(FETCH))),
        0x15
    );
}

#[test]
fn tables_outside_memory_are_named() {
    let mut tables = memory(&[(0x1000, 0x20_0000 | P)]);
    let result = walk(&mut tables, &LONG, Gva(0), READ);
    assert_eq!(result, Err(WalkError::NoMemory(Gpa(0x20_0000))));
    let beyond = Paging {
        cr3: 0x10_0000,
        ..BITS32
    };
    let result = walk(&mut tables, &beyond, Gva(0x40_0000), READ);
    assert_eq!(result, Err(WalkError::NoMemory(Gpa(0x10_0004))));
}

#[test]
fn tables_that_point_to_themselves_end_after_their_levels() {
    let mut tables = memory(&[(0x1000, 0x1000 | P | W | U)]);
    let found = walk(&mut tables, &LONG, Gva(0), user(WRITE)).unwrap();
    assert_eq!((found.gpa, tables.reads), (Gpa(0x1000), 4));
}

/// A memory that answers every read with the next of a few words.
struct Noise(Vec<u64>, usize);

impl GuestPhys for Noise {
    fn read_u64(&mut self, _gpa: Gpa) -> Option<u64> {
        self.1 += 1;
        self.0.get(self.1 % (self.0.len() + 1)).copied()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn nonsense_ends_within_five_reads_and_stays_in_the_address_width(
        words in prop::collection::vec(prop_oneof![any::<u64>(), any::<u64>().prop_map(|w| w & 0x3fff_ffff_ffff | 7)], 1..8),
        registers in any::<[u64; 5]>(),
        physical_bits in 0u32..70,
        gva in any::<u64>(),
        kind in prop_oneof![Just(READ), Just(WRITE), Just(FETCH), Just(user(WRITE))],
    ) {
        let [cr0, cr3, cr4, efer, rflags] = registers;
        let paging = Paging { cr0, cr3, cr4, efer, rflags, physical_bits, gigabyte_pages: gva & 1 != 0 };
        let mut noise = Noise(words, 0);
        if let Ok(found) = walk(&mut noise, &paging, Gva(gva), kind) {
            prop_assert!(found.gpa.0 <= paging.physical_mask());
            prop_assert_eq!(found.gpa.0 & (found.page_size - 1) & 0xfff, gva & 0xfff);
        }
        prop_assert!(noise.1 <= 5);
    }
}
