//! Any operations, against the model; and the last one, write by write.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::addr::{Frame, FrameCount};
use crate::ept::{EptError, EptPerms};
use crate::ledger::Entry;
use crate::table::fake::Tables;
use crate::table::{PageSize, TableError};

use super::model::{Model, Seen, ViewModel, Word};
use super::{ALL, Machine, R, RW, ViewId, X, XU, attr, caps, gpa, hardware, watch};
use crate::views::{ViewError, Withdrawn};

const GIB: u64 = 512 * 512;
/// Every page below is compared.
const SMALL: u64 = 3 * 512;
const MOST_VIEWS: usize = 6;
/// What the VM has.
const FRAMES: u64 = GIB + 2048;

#[derive(Clone, Debug)]
enum Op {
    Map(u64, u64, u64, EptPerms),
    Unmap(u64, u64),
    Protect(u64, u64, EptPerms),
    Limit(usize, u64, u64, EptPerms),
    Remap(usize, u64, u64, u64, EptPerms),
    Reset(usize, u64, u64),
    Add(EptPerms),
    Remove(usize),
    /// The processor uses a page.
    Touch(usize, u64),
    /// Only so many tables are left.
    Tables(usize),
}

/// Pages near the borders of 2 MiB, and around 1 GiB.
fn page() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..SMALL,
        4 => (0u64..3).prop_map(|block| block * 512),
        2 => (0u64..4).prop_map(|block| GIB + block * 512),
        1 => Just(GIB - 3),
    ]
}

fn frame() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..2048, (0u64..4).prop_map(|block| block * 512)]
}

fn count() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 1u64..8,
        3 => 1u64..1100,
        3 => Just(512u64),
        1 => Just(1024u64),
        1 => Just(GIB)
    ]
}

/// What a mapping may have.
fn perms() -> impl Strategy<Value = EptPerms> {
    prop_oneof![
        Just(ALL),
        Just(ALL),
        Just(RW),
        Just(R),
        Just(R | X),
        Just(R | XU),
        Just(X)
    ]
}

/// What a view may be limited to.
fn limit() -> impl Strategy<Value = EptPerms> {
    prop_oneof![
        perms(),
        perms(),
        Just(RW | X),
        Just(RW | XU),
        Just(EptPerms::empty())
    ]
}

fn view() -> impl Strategy<Value = usize> {
    0..MOST_VIEWS
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (page(), frame(), count(), perms()).prop_map(|(p, f, n, a)| Op::Map(p, f, n, a)),
        3 => (page(), count()).prop_map(|(p, n)| Op::Unmap(p, n)),
        2 => (page(), count(), perms()).prop_map(|(p, n, a)| Op::Protect(p, n, a)),
        4 => (view(), page(), count(), limit()).prop_map(|(v, p, n, a)| Op::Limit(v, p, n, a)),
        3 => (view(), page(), frame(), count(), perms())
            .prop_map(|(v, p, f, n, a)| Op::Remap(v, p, f, n, a)),
        2 => (view(), page(), count()).prop_map(|(v, p, n)| Op::Reset(v, p, n)),
        2 => limit().prop_map(Op::Add),
        1 => view().prop_map(Op::Remove),
        1 => (view(), page()).prop_map(|(v, p)| Op::Touch(v, p)),
        1 => (0usize..6).prop_map(Op::Tables),
    ]
}

/// A machine, and what it should show.
struct Pair<'a> {
    machine: Machine<'a>,
    model: Model,
}

impl Pair<'_> {
    fn ids(&self) -> Vec<ViewId> {
        self.model.views.iter().map(|view| view.id).collect()
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Map(page, frame, count, perms) => self.map(page, frame, count, perms),
            Op::Unmap(page, count) => self.unmap(page, count),
            Op::Protect(page, count, perms) => self.protect(page, count, perms),
            Op::Limit(view, page, count, perms) => {
                let word = Word::Perms(perms);
                self.change(view, page, count, word, |machine, id| {
                    let (at, count) = (gpa(page), FrameCount(count));
                    machine
                        .views
                        .limit(&mut machine.memory, id, at, count, perms)
                });
            }
            Op::Remap(view, page, frame, count, perms) => {
                let word = Word::Frames(frame, perms);
                self.change(view, page, count, word, |machine, id| {
                    let right = machine.right(frame, count);
                    let (at, attr) = (gpa(page), attr(perms));
                    let done = machine
                        .views
                        .remap(&mut machine.memory, id, at, right, attr);
                    done.map_err(|rejected| {
                        machine.ledger.surrender(rejected.right);
                        rejected.error
                    })
                });
            }
            Op::Reset(view, page, count) => {
                self.change(view, page, count, Word::Nothing, |machine, id| {
                    let (at, count) = (gpa(page), FrameCount(count));
                    machine.views.reset(&mut machine.memory, id, at, count)
                });
            }
            Op::Add(default) => self.add(default),
            Op::Remove(view) => {
                if let Some(view) = self.some_view(view) {
                    let view = self.model.views.remove(view);
                    self.machine.remove(view.id);
                }
            }
            Op::Touch(view, page) => {
                let id = self
                    .model
                    .views
                    .get(view)
                    .map_or(ViewId::BASE, |view| view.id);
                let root = self.machine.root(id);
                hardware::touch(&mut self.machine.memory.tables, root, page);
            }
            Op::Tables(budget) => self.machine.memory.budget = budget,
        }
    }

    /// One of the views that there are, if there are any.
    fn some_view(&self, number: usize) -> Option<usize> {
        number.checked_rem(self.model.views.len())
    }

    /// Checks that tables which views gave up are as they were: a processor may be in the middle of them.
    fn check_unlinked(&self, before: &Tables) {
        let Machine { memory, .. } = &self.machine;
        let mut linked = BTreeSet::new();
        for view in self.ids().into_iter().chain([ViewId::BASE]) {
            hardware::tables(&memory.tables, self.machine.root(view), &mut linked);
        }
        for (table, entries) in before {
            assert!(linked.contains(table) || memory.tables[table] == *entries);
        }
    }

    /// Whether an operation ended for want of tables; then there are enough for the next.
    fn ran_out(&mut self, error: Option<EptError>) -> bool {
        let ran_out = error == Some(EptError::Table(TableError::OutOfTables));
        if ran_out {
            assert!(self.machine.memory.budget < 1100, "enough tables were left");
            self.machine.memory.budget = 100_000;
        }
        ran_out
    }

    fn map(&mut self, page: u64, frame: u64, count: u64, perms: EptPerms) {
        let is_free = self.model.is_free(page, count);
        let right = self.machine.right(frame, count);
        let Machine { views, memory, .. } = &mut self.machine;
        match views.map(memory, gpa(page), right, attr(perms)) {
            Ok(()) => {
                assert!(is_free);
                self.model.base.say(page, count, Word::Frames(frame, perms));
            }
            Err(rejected) => {
                self.machine.ledger.surrender(rejected.right);
                assert!(self.ran_out(Some(rejected.error)) || !is_free);
            }
        }
    }

    fn unmap(&mut self, page: u64, count: u64) {
        let Machine { views, memory, .. } = &mut self.machine;
        let stale = match views.unmap_run(memory, gpa(page), FrameCount(count)) {
            Ok(Some(stale)) => stale,
            Ok(None) => return assert!(self.model.is_free(page, count)),
            Err(error) => return assert!(self.ran_out(Some(error))),
        };
        let first = self.model.first_mapped(page, count).unwrap();
        let proof = self.machine.flush();
        let (at, right) = stale.flushed(&proof, &mut self.machine.memory).unwrap();
        let run = right.run();
        assert_eq!(at, gpa(first));
        for into in 0..run.count.0 {
            let frame = run.first.0 + into - self.machine.frames.first.0;
            let shown = self.model.base(first + into).map(|(frame, _)| frame);
            assert_eq!(shown, Some(frame));
        }
        self.machine.ledger.surrender(right);
        self.model.base.say(first, run.count.0, Word::Nothing);
    }

    fn protect(&mut self, page: u64, count: u64, perms: EptPerms) {
        let run = self.model.run(page, count);
        let frame = self.model.base(page).map_or(0, |(frame, _)| frame);
        let evidence = self.machine.right(frame, run.max(1));
        let Machine { views, memory, .. } = &mut self.machine;
        match views.protect(memory, gpa(page), perms, &evidence) {
            Ok(stale) => {
                assert!(run > 0);
                let proof = self.machine.flush();
                stale.flushed(&proof, &mut self.machine.memory).unwrap();
                self.model.base.say(page, run, Word::Perms(perms));
            }
            Err(error) => assert!(self.ran_out(Some(error)) || run == 0),
        }
        self.machine.ledger.surrender(evidence);
    }

    fn change(
        &mut self,
        view: usize,
        page: u64,
        count: u64,
        word: Word,
        change: impl FnOnce(&mut Machine<'_>, ViewId) -> Result<Withdrawn, ViewError>,
    ) {
        let Some(view) = self.some_view(view) else {
            return;
        };
        let id = self.model.views[view].id;
        let before = self.machine.memory.tables.clone();
        match change(&mut self.machine, id) {
            Ok(withdrawn) => {
                self.check_unlinked(&before);
                self.machine.settle(withdrawn);
                self.model.views[view].overrides.say(page, count, word);
            }
            Err(ViewError::Ept(error)) => {
                assert!(self.ran_out(Some(error)));
                assert!(self.machine.memory.tables == before, "half-done");
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn add(&mut self, default: EptPerms) {
        if self.model.views.len() == MOST_VIEWS {
            return;
        }
        let Machine { views, memory, .. } = &mut self.machine;
        match views.add(memory, default) {
            Ok(id) => self.model.views.push(ViewModel {
                id,
                default,
                overrides: Default::default(),
            }),
            Err(ViewError::Ept(error)) => assert!(self.ran_out(Some(error))),
            Err(error) => panic!("{error}"),
        }
    }

    /// Every small page, and every border of the large ones.
    fn pages(&self) -> Vec<u64> {
        let borders = self.model.borders().filter(|page| *page >= SMALL);
        let near = borders.flat_map(|page| [page - 1, page, page + 1, page + 511]);
        let fixed = [
            GIB - 1,
            GIB,
            GIB + 1,
            GIB + 511,
            GIB + 512,
            2 * GIB - 1,
            2 * GIB,
        ];
        (0..SMALL).chain(near).chain(fixed).collect()
    }

    fn compare(&self) {
        let pages = self.pages();
        for page in &pages {
            let seen: Seen = self.machine.sees(ViewId::BASE, *page);
            assert_eq!(seen, self.model.base(*page), "page {page} of the base");
            for view in &self.model.views {
                let seen = self.machine.sees(view.id, *page);
                assert_eq!(
                    seen,
                    self.model.view(view, *page),
                    "page {page} of {view:?}",
                    view = view.id
                );
            }
        }
        self.machine.check_tables(&self.ids(), 0);
    }
}

fn pair(entries: &mut Vec<Entry>) -> Pair<'_> {
    Pair {
        machine: Machine::new(entries, FRAMES, PageSize::Size1G, caps()),
        model: Model::default(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn all_views_agree_with_a_flat_model_after_any_operations(
        ops in prop::collection::vec(op(), 1..32),
    ) {
        let mut entries = Vec::new();
        let mut pair = pair(&mut entries);
        for op in [Op::Add(RW | X), Op::Map(0, 0, SMALL, ALL)].iter().chain(&ops) {
            pair.apply(op);
            pair.compare();
        }
        let ids = pair.ids();
        pair.machine.memory.budget = 100_000;
        pair.machine.end(&ids);
    }

    #[test]
    fn between_any_two_writes_each_page_of_each_view_is_as_before_or_after(
        ops in prop::collection::vec(op(), 1..12),
        last in prop::collection::vec(op(), 3),
    ) {
        let mut entries = Vec::new();
        let mut pair = pair(&mut entries);
        for op in [Op::Add(RW | X), Op::Add(R), Op::Map(0, 0, SMALL, ALL)].iter().chain(&ops) {
            pair.apply(op);
        }
        for op in &last {
            let roots: Vec<Frame> = pair
                .ids()
                .into_iter()
                .chain([ViewId::BASE])
                .map(|view| pair.machine.root(view))
                .collect();
            pair.machine.memory.log.clear();
            let before = pair.machine.memory.tables.clone();
            pair.apply(op);
            let after = &pair.machine.memory.tables;
            // A removed view's tables are what they were until they are freed.
            let roots: Vec<Frame> = roots.into_iter().filter(|root| after.contains_key(&root.0)).collect();
            watch::check(&before, after, &roots, &pair.machine.memory.log);
        }
    }
}
