//! Fixed and variable ranges, their precedence, and registers that make no sense.

use proptest::prelude::*;

use super::*;

use MemoryType::{Uncacheable, WriteBack, WriteCombining, WriteProtected, WriteThrough};

const ENABLED: u64 = 1 << 11;
const FIXED_ENABLED: u64 = 1 << 10;
const VALID: u64 = 1 << 11;

/// Registers with `variable` (base, mask) pairs, 36 address bits.
fn mtrrs(def_type: u64, variable: &[(u64, u64)]) -> Result<Mtrrs, MtrrError> {
    let variable = variable.to_vec();
    Mtrrs::read(36, move |msr| match msr {
        MSR_MTRRCAP => 0x500 | variable.len() as u64,
        MSR_DEF_TYPE => def_type,
        0x250 => 0x0606_0606_0606_0606,
        0x258 => 0x0606_0606_0606_0604,
        0x259 => 0,
        0x268 => 0x0505_0505_0505_0501,
        0x269..0x270 => 0x0505_0505_0505_0505,
        _ => {
            let index = (msr - MSR_PHYSBASE0) as usize;
            let (base, mask) = variable[index / 2];
            if index.is_multiple_of(2) { base } else { mask }
        }
    })
}

/// The mask of an aligned range of `size` bytes.
fn mask(size: u64) -> u64 {
    (0xf_ffff_ffff & !(size - 1)) | VALID
}

fn run(first: u64, count: u64) -> FrameRun {
    FrameRun::new(Frame(first), FrameCount(count))
}

#[test]
fn disabled_mtrrs_make_everything_uncacheable() {
    let off = mtrrs(6, &[(6, mask(1 << 30))]).unwrap();
    assert_eq!(off, Mtrrs::DISABLED);
    assert_eq!(off.type_at(Hpa(0)), Uncacheable);
    let all = run(0, 1 << 40);
    assert_eq!(off.runs(all).collect::<Vec<_>>(), [(all, Uncacheable)]);
}

#[test]
fn variable_range_overrides_the_default() {
    let found = mtrrs(ENABLED | 6, &[(0x8000_0000, mask(0x8000_0000))]).unwrap();
    let runs: Vec<_> = found.runs(run(0x7_fff0, 0x9_0000)).collect();
    assert_eq!(
        runs,
        [
            (run(0x7_fff0, 0x10), WriteBack),
            (run(0x8_0000, 0x8_0000), Uncacheable),
            (run(0x10_0000, 0xfff0), WriteBack),
        ]
    );
}

#[test]
fn uncacheable_wins_every_overlap_and_write_through_beats_write_back() {
    let at_zero = |types: &[u64]| {
        let ranges: Vec<_> = types.iter().map(|raw| (*raw, mask(1 << 20))).collect();
        mtrrs(ENABLED | 6, &ranges).unwrap().type_at(Hpa(0x1000))
    };
    assert_eq!(at_zero(&[6, 0]), Uncacheable);
    assert_eq!(at_zero(&[0, 4]), Uncacheable);
    assert_eq!(at_zero(&[6, 4]), WriteThrough);
    assert_eq!(at_zero(&[4, 6, 6]), WriteThrough);
    assert_eq!(at_zero(&[4, 6, 0]), Uncacheable);
    assert_eq!(at_zero(&[1, 1]), WriteCombining);
    assert_eq!(at_zero(&[5]), WriteProtected);
}

#[test]
fn undefined_overlaps_are_uncacheable() {
    let ranges = [(1, mask(1 << 20)), (6, mask(1 << 20))];
    assert_eq!(
        mtrrs(ENABLED | 6, &ranges).unwrap().type_at(Hpa(0)),
        Uncacheable
    );
}

#[test]
fn fixed_ranges_override_variable_ones_below_1_mib() {
    let found = mtrrs(ENABLED | FIXED_ENABLED | 6, &[(0, mask(1 << 21))]).unwrap();
    let at = |address| found.type_at(Hpa(address));
    assert_eq!(at(0), WriteBack);
    assert_eq!(at(0x7_ffff), WriteBack);
    assert_eq!(at(0x8_0000), WriteThrough);
    assert_eq!(at(0x8_4000), WriteBack);
    assert_eq!(at(0xa_0000), Uncacheable);
    assert_eq!(at(0xc_0000), WriteCombining);
    assert_eq!(at(0xc_1000), WriteProtected);
    assert_eq!(at(0xf_ffff), WriteProtected);
    assert_eq!(at(0x10_0000), Uncacheable);
    assert_eq!(at(0x20_0000), WriteBack);
}

#[test]
fn disabled_fixed_ranges_are_not_even_read() {
    let found = mtrrs(ENABLED | 6, &[]).unwrap();
    assert_eq!(found.type_at(Hpa(0xa_0000)), WriteBack);
}

#[test]
fn masks_with_holes_cover_every_matching_block() {
    // Address bit 21 must be 1, bit 22 may be anything, bit 23 up must be 0.
    let odd = (0xf_ffff_ffff & !(1 << 22) & !0x1f_ffff) | VALID;
    let found = mtrrs(ENABLED | 6, &[(0x20_0000, odd)]).unwrap();
    let types: Vec<_> = found.runs(run(0, 0x1000)).collect();
    assert_eq!(
        types,
        [
            (run(0, 0x200), WriteBack),
            (run(0x200, 0x200), Uncacheable),
            (run(0x400, 0x200), WriteBack),
            (run(0x600, 0x200), Uncacheable),
            (run(0x800, 0x800), WriteBack),
        ]
    );
}

#[test]
fn invalid_ranges_are_skipped_and_empty_masks_cover_everything() {
    let skipped = mtrrs(ENABLED | 6, &[(2, mask(1 << 20) & !VALID)]).unwrap();
    assert_eq!(skipped.type_at(Hpa(0)), WriteBack);
    let all = mtrrs(ENABLED | 6, &[(0, VALID)]).unwrap();
    assert_eq!(all.type_at(Hpa(1 << 35)), Uncacheable);
}

#[test]
fn registers_that_make_no_sense_are_named() {
    assert_eq!(
        mtrrs(ENABLED | 2, &[]),
        Err(MtrrError::DefaultType(ENABLED | 2))
    );
    assert_eq!(
        mtrrs(ENABLED, &[(3, mask(1 << 20))]),
        Err(MtrrError::VariableType { index: 0, base: 3 })
    );
    let wide = mask(1 << 20) | 1 << 36;
    let error = mtrrs(ENABLED, &[(0, mask(1 << 20)), (0, wide)]).unwrap_err();
    assert_eq!(
        error,
        MtrrError::AddressWidth {
            index: 1,
            base: 0,
            mask: wide
        }
    );
    assert!(error.to_string().contains("variable MTRR 1"), "{error}");
    let bad_fixed = Mtrrs::read(36, |msr| match msr {
        MSR_MTRRCAP => 0x100,
        MSR_DEF_TYPE => ENABLED | FIXED_ENABLED,
        0x259 => 0x0700,
        _ => 0,
    });
    assert_eq!(
        bad_fixed,
        Err(MtrrError::FixedType {
            msr: 0x259,
            value: 0x0700
        })
    );
    assert_eq!(
        Mtrrs::read(36, |_| 0xff),
        Err(MtrrError::TooManyRanges(255))
    );
    assert_eq!(Mtrrs::read(64, |_| 0), Err(MtrrError::PhysicalBits(64)));
}

proptest! {
    #[test]
    fn runs_cover_the_range_and_agree_with_each_frame(
        ranges in prop::collection::vec((0u64..64, 1u64..64, prop::sample::select(vec![0u64, 1, 4, 5, 6])), 0..6),
        fixed in any::<bool>(),
        first in 0u64..300,
        count in 1u64..600,
    ) {
        // Bases and masks over six address bits from bit 16 up: small, with every kind of hole.
        let ranges: Vec<_> = ranges
            .iter()
            .map(|(base, bits, raw)| (base << 16 | raw, (0xf_ffff_ffff & !(0x3f << 16) & !0xffff) | bits << 16 | VALID))
            .collect();
        let found = mtrrs(ENABLED | 6 | if fixed { FIXED_ENABLED } else { 0 }, &ranges).unwrap();
        let mut next = first;
        let mut last = None;
        for (piece, memory_type) in found.runs(run(first, count)) {
            prop_assert_eq!(piece.first.0, next);
            prop_assert!(last != Some(memory_type), "two pieces that should be one");
            for frame in piece.first.0..piece.end().0 {
                prop_assert_eq!(found.type_at(Frame(frame).start()), memory_type);
            }
            next = piece.end().0;
            last = Some(memory_type);
        }
        prop_assert_eq!(next, first + count);
    }
}
