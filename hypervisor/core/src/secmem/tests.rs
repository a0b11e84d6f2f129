//! A VM's memory sealed and unsealed against a plain model of what it holds, through a processor that caches translations.

use std::collections::BTreeMap;

use super::*;
use crate::addr::{FRAME_SIZE, Frame, FrameCount, Gpa};
use crate::backing::Backing;
use crate::ept::{Ept, EptCaps, EptFeatures};
use crate::ledger::{
    Entry, FrameRun, KeyId, Ledger, LedgerError, MapRight, MemoryKind, MemoryRange, Owner, Rights,
    Scrub, State, VmId,
};
use crate::mtrr::Mtrrs;
use crate::table::Invalidate;
use crate::table::fake::FakeMemory;
use crate::testing::Random;
use crate::views::{ViewId, Views};

const VM: VmId = VmId(3);
const KEY: KeyId = KeyId(9);
const RAM: u64 = 1536;
const OVERLAY: u64 = 32;
const RANGES: [RamRange; 2] = [
    RamRange {
        gpa: Gpa(0),
        count: FrameCount(512),
    },
    RamRange {
        gpa: Gpa(0x40_0000),
        count: FrameCount(RAM - 512),
    },
];

/// The machine: what lies in the frames (eight bytes stand for a page), and what the processor cached.
struct Machine<'a> {
    ledger: Ledger<'a>,
    tables: FakeMemory,
    content: BTreeMap<u64, u64>,
    cached: BTreeMap<u64, Frame>,
    flushes: u64,
    /// How often the books were taken.
    holds: u64,
}

/// A mixer that stands for cipher and MAC: every bit of the result depends on every word.
fn mix(words: &[u64]) -> u64 {
    words.iter().fold(0x9e37_79b9_7f4a_7c15, |hash, word| {
        let hash = (hash ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        (hash ^ hash >> 29).wrapping_mul(0xc4ce_b9fe_1a85_ec53)
    })
}

fn pad(place: Place) -> u64 {
    mix(&[1, place.gpa.0, place.version])
}

fn tag_of(place: Place, content: u64) -> Tag {
    let half = |which| {
        mix(&[
            which,
            u64::from(place.vm.0),
            place.gpa.0,
            place.version,
            content,
        ])
    };
    let both = u128::from(half(2)) << 64 | u128::from(half(3));
    Tag::from_bytes(both.to_le_bytes())
}

impl Machine<'_> {
    fn at(&mut self, right: &MapRight) -> &mut u64 {
        assert_eq!(right.run().count, FrameCount(1));
        self.content.entry(right.run().first.0).or_default()
    }
}

impl Invalidate for Machine<'_> {
    fn invalidate(&mut self, _root: Frame) {
        self.cached.clear();
        self.flushes += 1;
    }
}

impl Sealer for Machine<'_> {
    type Tables = FakeMemory;

    fn books<T>(&mut self, work: impl FnOnce(&mut Ledger<'_>, &mut FakeMemory) -> T) -> T {
        self.holds += 1;
        work(&mut self.ledger, &mut self.tables)
    }

    fn encrypt(&mut self, place: Place, right: MapRight) -> (Tag, MapRight) {
        let content = self.at(&right);
        *content ^= pad(place);
        let tag = tag_of(place, *content);
        (tag, right)
    }

    fn verify(&mut self, place: Place, tag: Tag, right: MapRight) -> (bool, MapRight) {
        let found = tag_of(place, *self.at(&right));
        (found.to_bytes() == tag.to_bytes(), right)
    }

    fn decrypt(&mut self, place: Place, tag: Tag, right: MapRight) -> (bool, MapRight) {
        let (is_whole, right) = self.verify(place, tag, right);
        if is_whole {
            *self.at(&right) ^= pad(place);
        }
        (is_whole, right)
    }
}

struct NothingToScrub;

impl Scrub for NothingToScrub {
    fn scrub(&mut self, right: MapRight) -> MapRight {
        right
    }
}

/// One encrypted VM on a machine.
struct Lab<'a> {
    machine: Machine<'a>,
    views: Views,
    mtrrs: Mtrrs,
    space: Space,
    backing: Backing,
}

fn entries() -> Vec<Entry> {
    vec![Entry::ABSENT; 4096]
}

impl<'a> Lab<'a> {
    fn new(entries: &'a mut [Entry], window: Option<u64>) -> Self {
        let range = MemoryRange {
            run: FrameRun::new(Frame(0), FrameCount(entries.len() as u64)),
            kind: MemoryKind::Usable,
        };
        let mut ledger = Ledger::new(entries, [range].into_iter());
        let mut backing = Backing::new(FrameCount(RAM), [FrameCount(OVERLAY)]);
        while let Some(count) = backing.next(FrameCount(1024)) {
            let add = |run| backing.add(run);
            ledger.alloc_frames(Owner::Vm(VM), count, add).unwrap();
        }
        for run in backing.runs() {
            ledger.scrub(run, &mut NothingToScrub).unwrap();
        }
        let mut tables = FakeMemory::new(64);
        let caps = EptCaps::negotiate(EptFeatures::all().bits()).unwrap();
        let views = Views::new(Ept::new(VM, caps, &mut tables).unwrap());
        let window = window.map(FrameCount);
        let records = Records::new(RAM + OVERLAY, window);
        Self {
            machine: Machine {
                ledger,
                tables,
                content: BTreeMap::new(),
                cached: BTreeMap::new(),
                flushes: 0,
                holds: 0,
            },
            views,
            mtrrs: Mtrrs::read(36, |register| match register {
                // Enabled, write-back by default, no ranges.
                0x2ff => 1 << 11 | 6,
                _ => 0,
            })
            .unwrap(),
            space: Space::new(VM, KEY, window, records),
            backing,
        }
    }

    fn pages(&self) -> PageMap<'_> {
        PageMap {
            backing: &self.backing,
            ram: &RANGES,
        }
    }

    fn frame(&self, page: u64) -> Frame {
        self.pages().frame(page).unwrap().first
    }

    fn check(&mut self, page: u64) -> Option<bool> {
        let pages = PageMap {
            backing: &self.backing,
            ram: &RANGES,
        };
        self.space.check(page, pages, &mut self.machine)
    }

    fn survey(&mut self) -> Survey {
        let pages = PageMap {
            backing: &self.backing,
            ram: &RANGES,
        };
        self.space.survey(pages, &mut self.machine)
    }

    fn present(&mut self, page: u64) -> Result<bool, Refusal> {
        let mut mapper = Mapper {
            views: &mut self.views,
            mtrrs: &self.mtrrs,
            pages: PageMap {
                backing: &self.backing,
                ram: &RANGES,
            },
        };
        self.space.present(page, &mut mapper, &mut self.machine)
    }

    fn seal_all(&mut self) -> Result<(), Refusal> {
        let mut mapper = Mapper {
            views: &mut self.views,
            mtrrs: &self.mtrrs,
            pages: PageMap {
                backing: &self.backing,
                ram: &RANGES,
            },
        };
        while self.space.seal_some(&mut mapper, &mut self.machine)? {}
        Ok(())
    }

    /// What the guest's access, or a copy for one of its devices, reaches: as a processor does it, by what it cached.
    fn access(&mut self, page: u64) -> Result<&mut u64, Refusal> {
        let gpa = self.pages().gpa(page);
        let frame = if !self.pages().is_ram(page) {
            self.present(page)?;
            self.frame(page)
        } else if let Some(frame) = self.machine.cached.get(&page) {
            *frame
        } else {
            if self
                .views
                .translate(&self.machine.tables, ViewId::BASE, gpa)
                .is_none()
            {
                self.present(page)?;
            }
            let leaf = self
                .views
                .translate(&self.machine.tables, ViewId::BASE, gpa)
                .unwrap();
            let frame = Frame(leaf.frame.0 + (gpa.0 - leaf.input.0) / FRAME_SIZE);
            self.machine.cached.insert(page, frame);
            frame
        };
        Ok(self.machine.content.entry(frame.0).or_default())
    }

    /// What the model of all counts has to agree with.
    fn check_counts(&mut self) {
        let survey = self.survey();
        assert_eq!(survey.touched, self.space.touched());
        assert_eq!(survey.readable, self.space.readable());
        assert_eq!(survey.sealed + survey.readable, survey.touched);
        if let Some(window) = self.space.window() {
            assert!(survey.readable <= window.0, "{survey:?}");
        }
        let books = *self.machine.ledger.books();
        assert_eq!(books, self.machine.ledger.audit());
        assert_eq!(books.in_state(State::Sealed), FrameCount(survey.sealed));
    }
}

fn live(window: Option<u64>, seed: u64) {
    let mut entries = entries();
    let mut lab = Lab::new(&mut entries, window);
    let mut model = vec![0_u64; (RAM + OVERLAY) as usize];
    let mut random = Random(seed);
    let mut at = 0;
    for step in 0..60_000_u64 {
        // Some here and there, some in a row, as programs do.
        at = match random.below(8) {
            0 => random.below(RAM + OVERLAY),
            1..=3 => (at + 1) % (RAM + OVERLAY),
            _ => (at & !15) + random.below(16),
        };
        let wanted = model[at as usize];
        let found = lab.access(at).unwrap();
        assert_eq!(*found, wanted, "page {at} at step {step}");
        if random.one_in(2) {
            *found = step;
            model[at as usize] = step;
        }
        if step % 5_000 == 4_999 {
            lab.check_counts();
            if random.one_in(2) {
                lab.seal_all().unwrap();
                assert_eq!(lab.space.readable(), 0);
                lab.check_counts();
                for (page, wanted) in model.iter().enumerate().filter(|(_, wanted)| **wanted != 0) {
                    let frame = lab.frame(page as u64);
                    assert_ne!(
                        lab.machine.content[&frame.0], *wanted,
                        "page {page} is clear"
                    );
                    assert_eq!(lab.check(page as u64), Some(true));
                }
            }
        }
    }
    let counts = lab.space.counts();
    assert!(counts.unsealed > 1_000 && counts.ahead > 100, "{counts:?}");
}

#[test]
fn a_guest_finds_what_it_left_whatever_is_sealed_meanwhile() {
    live(Some(512), 11);
    live(Some(700), 12);
    live(None, 13);
}

#[test]
fn memory_without_bound_comes_in_large_pages_and_is_sealed_page_by_page() {
    let mut entries = entries();
    let mut lab = Lab::new(&mut entries, None);
    *lab.access(700).unwrap() = 5;
    assert_eq!((lab.space.counts().faults, lab.space.touched()), (1, 512));
    lab.seal_all().unwrap();
    assert_eq!(lab.survey().sealed, 512);
    assert_eq!(*lab.access(700).unwrap(), 5);
    assert_eq!(lab.space.readable(), 1);
}

#[test]
fn one_flush_serves_many_pages() {
    let mut entries = entries();
    let mut lab = Lab::new(&mut entries, Some(512));
    for page in 0..RAM {
        *lab.access(page).unwrap() = page;
    }
    let counts = lab.space.counts();
    assert!(counts.sealed >= RAM - 512, "{counts:?}");
    assert!(counts.flushes <= counts.sealed / 15 + 1, "{counts:?}");
}

#[test]
fn a_page_that_is_copied_stays_readable_and_another_goes() {
    let mut entries = entries();
    let mut lab = Lab::new(&mut entries, Some(512));
    lab.present(0).unwrap();
    let run = lab.pages().frame(0).unwrap();
    let right = lab
        .machine
        .ledger
        .grant_window(VM, run, Rights::READ)
        .unwrap();
    for page in 1..RAM {
        lab.access(page).unwrap();
    }
    assert_eq!(
        lab.machine.ledger.info(run.first).unwrap().state,
        State::Clear
    );
    assert!(lab.space.counts().pinned > 0);
    lab.seal_all().unwrap();
    assert_eq!(lab.space.readable(), 1);
    lab.machine.ledger.surrender(right);
    lab.seal_all().unwrap();
    assert_eq!(lab.space.readable(), 0);
}

#[test]
fn the_ledger_is_let_go_of_between_two_stretches_of_pages() {
    let mut entries = entries();
    let mut lab = Lab::new(&mut entries, Some(512));
    // Backwards, so that none comes ahead.
    (0..512).rev().for_each(|page| {
        lab.present(page).unwrap();
    });
    let runs: Vec<_> = (0..512)
        .map(|page| lab.pages().frame(page).unwrap())
        .collect();
    let ledger = &mut lab.machine.ledger;
    let rights: Vec<_> = runs
        .into_iter()
        .map(|run| ledger.grant_window(VM, run, Rights::READ).unwrap())
        .collect();
    let before = lab.machine.holds;
    // All are looked at, twice, and none can be sealed.
    lab.present(1000).unwrap();
    assert!(lab.space.counts().pinned >= 2 * 512);
    assert!(lab.machine.holds - before > 2 * 512 / 64);
    let before = lab.machine.holds;
    assert_eq!(lab.survey().readable, 513);
    assert!(lab.machine.holds - before >= (RAM + OVERLAY) / 64);
    for right in rights {
        lab.machine.ledger.surrender(right);
    }
}

/// Has every page hold its number, sealed.
fn filled<'a>(entries: &'a mut [Entry], window: Option<u64>) -> Lab<'a> {
    let mut lab = Lab::new(entries, window);
    for page in 0..RAM + OVERLAY {
        *lab.access(page).unwrap() = 1000 + page;
    }
    lab.seal_all().unwrap();
    lab
}

#[test]
fn whatever_is_done_to_a_sealed_page_is_found_out() {
    let mut entries = entries();
    let mut lab = filled(&mut entries, Some(512));
    let frame = |lab: &Lab<'_>, page| lab.frame(page).0;
    let (one, other) = (frame(&lab, 5), frame(&lab, 900));
    let tampered = |lab: &Lab<'_>, page| Refusal::Tampered {
        gpa: lab.pages().gpa(page),
        frame: lab.frame(page),
    };
    // Control: nothing was done.
    assert_eq!(lab.access(5), Ok(&mut 1005));
    lab.seal_all().unwrap();
    // One bit.
    *lab.machine.content.get_mut(&one).unwrap() ^= 1 << 40;
    assert_eq!(lab.check(5), Some(false));
    let refused = lab.access(5).map(|_| ());
    assert_eq!(refused, Err(tampered(&lab, 5)));
    assert_eq!(
        lab.machine.ledger.info(Frame(one)).unwrap().state,
        State::Sealed
    );
    *lab.machine.content.get_mut(&one).unwrap() ^= 1 << 40;
    // Two pages changed for each other.
    let (a, b) = (lab.machine.content[&one], lab.machine.content[&other]);
    lab.machine.content.insert(one, b);
    lab.machine.content.insert(other, a);
    let refused = lab.access(900).map(|_| ());
    assert_eq!(refused, Err(tampered(&lab, 900)));
    lab.machine.content.insert(one, a);
    lab.machine.content.insert(other, b);
    // What it held before.
    assert_eq!(lab.access(5), Ok(&mut 1005));
    lab.seal_all().unwrap();
    let old = lab.machine.content[&one];
    *lab.access(5).unwrap() = 6;
    lab.seal_all().unwrap();
    let new = lab.machine.content.insert(one, old).unwrap();
    let refused = lab.access(5).map(|_| ());
    assert_eq!(refused, Err(tampered(&lab, 5)));
    lab.machine.content.insert(one, new);
    assert_eq!(lab.access(5), Ok(&mut 6));
    // The same, unchanged, sealed again: what was there before is no longer good.
    lab.seal_all().unwrap();
    let before = lab.machine.content[&one];
    assert_eq!(lab.access(5), Ok(&mut 6));
    lab.seal_all().unwrap();
    assert_ne!(lab.machine.content[&one], before);
    lab.machine.content.insert(one, before);
    assert!(lab.access(5).is_err());
}

#[test]
fn pages_that_cannot_be_sealed_stay_counted_as_readable_and_the_others_are_sealed() {
    let mut entries = entries();
    let mut lab = Lab::new(&mut entries, Some(512));
    (0..40).rev().for_each(|page| {
        lab.access(page).unwrap();
    });
    let stuck = lab.frame(7);
    lab.machine.ledger.set_version(stuck, u32::MAX);
    let refused = Err(Refusal::Ledger(LedgerError::NoVersionLeft(stuck)));
    assert_eq!(lab.seal_all(), refused);
    lab.check_counts();
    // Tried again and again, it is the only one that is left.
    (0..4).for_each(|_| assert_eq!(lab.seal_all(), refused));
    assert_eq!(lab.space.readable(), 1);
    lab.check_counts();
}

#[test]
fn another_vm_gets_no_right_to_what_is_sealed_or_readable() {
    let mut entries = entries();
    let mut lab = filled(&mut entries, None);
    *lab.access(7).unwrap() = 7;
    for page in [7, 8] {
        let run = lab.pages().frame(page).unwrap();
        assert!(
            lab.machine
                .ledger
                .grant(VmId(4), run, Rights::READ)
                .is_err()
        );
        assert!(
            lab.machine
                .ledger
                .grant_window(VmId(4), run, Rights::READ)
                .is_err()
        );
        assert!(lab.machine.ledger.grant_unseal(VmId(4), run).is_err());
    }
}

#[test]
fn everything_can_be_given_back_at_the_end_of_a_life() {
    let mut entries = entries();
    let mut lab = filled(&mut entries, Some(512));
    (0..40).for_each(|page| {
        lab.access(page * 3).unwrap();
    });
    let Lab {
        mut machine,
        mut views,
        backing,
        space,
        ..
    } = lab;
    let everywhere = FrameCount(1 << 20);
    while let Some(stale) = views
        .unmap_run(&mut machine.tables, Gpa(0), everywhere)
        .unwrap()
    {
        let proof = views.flush(&mut machine);
        let (_, right) = stale.flushed(&proof, &mut machine.tables).unwrap();
        machine.ledger.surrender(right);
    }
    for run in backing.runs() {
        machine.ledger.free(Owner::Vm(VM), run).unwrap();
    }
    assert_eq!(*machine.ledger.books(), machine.ledger.audit());
    let records = space.end();
    let again = Space::new(VM, KeyId(10), None, records);
    assert_eq!((again.touched(), again.readable()), (0, 0));
}
