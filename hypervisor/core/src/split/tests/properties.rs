//! Any operations, against a flat model of what user code can come to.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::world::{
    DATA, MOST_PRIVATE, PROCESSES, RAM, SLOTS, WIDTH, World, address, addresses, slot_of,
};
use crate::addr::{FRAME_SIZE, Gpa, Gva};
use crate::ept::{EptError, EptPerms};
use crate::ledger::Entry;
use crate::split::{Fetch, Name, Place, Refusal, Side, Split, SplitError};
use crate::table::TableError;
use crate::views::ViewError;

const VCPUS: u32 = 2;
/// A level-3 table's part of an address: where two slots lead to one table, it is what counts.
const BELOW_SLOT: u64 = (1 << 39) - 1;
/// Blocks of 2 MiB that a vCPU's names may lie in, for which there are always pages.
const BLOCKS: usize = 2;

#[derive(Clone, Debug)]
enum Op {
    /// A process gets the kernel's table of a slot.
    Share(usize, usize),
    /// A vCPU enters a process, with some of the kernel's pages named, and these pages the tables on the way there.
    Admit(u32, usize, Vec<prop::sample::Index>, Vec<u64>),
    /// A vCPU enters a process with the names that it had.
    AdmitAgain(u32, usize),
    Guard(usize),
    Forget,
    /// Only so many tables of views are left.
    Tables(usize),
    /// The kernel executes a page.
    Execute(u64),
    /// And writes to one.
    Write(u64),
    /// User code has a page be private, has it be private no more, or the kernel puts it to another use.
    Conceal(u64),
    Reveal(u64),
    GiveUp(u64),
    /// A process has the tables of two slots exchanged, as no sane kernel does.
    Exchange(usize, usize, usize),
}

fn slot() -> impl Strategy<Value = usize> {
    0..SLOTS.len()
}

fn process() -> impl Strategy<Value = usize> {
    0..PROCESSES
}

fn op() -> impl Strategy<Value = Op> {
    let names = prop::collection::vec(any::<prop::sample::Index>(), 0..5);
    let paths = prop::collection::vec(0..RAM, 0..3);
    prop_oneof![
        6 => (process(), slot()).prop_map(|(p, s)| Op::Share(p, s)),
        6 => (0..VCPUS, process(), names, paths).prop_map(|(v, p, n, t)| Op::Admit(v, p, n, t)),
        4 => (0..VCPUS, process()).prop_map(|(v, p)| Op::AdmitAgain(v, p)),
        2 => process().prop_map(Op::Guard),
        4 => (0..RAM).prop_map(Op::Execute),
        2 => (0..RAM).prop_map(Op::Write),
        3 => (0..RAM).prop_map(Op::Conceal),
        1 => (0..RAM).prop_map(Op::Reveal),
        1 => (0..RAM).prop_map(Op::GiveUp),
        1 => Just(Op::Forget),
        1 => (0usize..12).prop_map(Op::Tables),
    ]
}

fn wild_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => op(),
        1 => (process(), slot(), slot()).prop_map(|(p, a, b)| Op::Exchange(p, a, b)),
    ]
}

/// What `user` is to be.
#[derive(Default)]
struct Model {
    /// Pages of level-3 tables that were admitted.
    tables: BTreeSet<u64>,
    /// Those of them that a name was behind.
    replaced: BTreeSet<u64>,
    names: BTreeMap<u32, Vec<Name>>,
    guarded: Option<u64>,
    /// Pages of the kernel's code, where that has to be found.
    code: BTreeSet<u64>,
    private: BTreeSet<u64>,
    /// Tables on the way to what a vCPU names.
    paths: BTreeMap<u32, BTreeSet<u64>>,
}

impl Model {
    fn guarded(&self) -> impl Iterator<Item = u64> {
        let paths = self.paths.values().flatten().copied();
        self.guarded.into_iter().chain(paths)
    }

    fn named(&self) -> impl Iterator<Item = &Name> {
        self.names.values().flatten()
    }

    /// The frames that a name gives an address.
    fn frames(&self, gva: Gva) -> BTreeSet<u64> {
        let here = |name: &&Name| (name.gva.0 ^ gva.0) & BELOW_SLOT == 0;
        let named = self.named().filter(here);
        named.map(|name| name.gpa.0 / FRAME_SIZE).collect()
    }
}

struct Pair<'a> {
    world: World<'a>,
    model: Model,
    /// The processor tells user code from the kernel's.
    tells: bool,
    /// Every slot leads to one table, whatever the process.
    is_sane: bool,
}

impl Pair<'_> {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Share(process, slot) => self.world.guest.share(*process, *slot),
            Op::Admit(vcpu, process, chosen, paths) => {
                let named = addresses().filter_map(|gva| self.world.name(*process, gva));
                let named: Vec<_> = named.collect();
                let chosen = chosen.iter().filter(|_| !named.is_empty());
                let names: Vec<_> = chosen.map(|index| *index.get(&named)).collect();
                let paths = paths.iter().copied().collect();
                self.admit(*vcpu, *process, &names, &paths);
            }
            Op::AdmitAgain(vcpu, process) => {
                let names = self.model.names.get(vcpu).cloned().unwrap_or_default();
                let paths = self.model.paths.get(vcpu).cloned().unwrap_or_default();
                self.admit(*vcpu, *process, &names, &paths);
            }
            Op::Guard(process) => {
                let table = self.world.guest.tops[*process];
                let before = self.model.guarded;
                if before.is_some_and(|before| before != table) {
                    // Another kernel takes the place of the one before.
                    self.model = Model::default();
                }
                match self.world.begin(table) {
                    Ok(guarded) => {
                        assert_eq!(guarded, Gpa(table * FRAME_SIZE));
                        if self.model.guarded.replace(table).is_none() {
                            self.model.code.remove(&table);
                        }
                    }
                    Err(error) => self.give_up(error),
                }
            }
            Op::Execute(page) => self.execute(*page),
            Op::Write(page) => {
                let gpa = Gpa(page * FRAME_SIZE + 8);
                if self.world.split.place(Side::Kernel, gpa) == Place::Code {
                    let lost = self
                        .world
                        .work(|split, views, pages| split.lose_code(gpa, views, pages));
                    // What is taken out needs no table.
                    assert_eq!(lost, Ok(()));
                    assert!(self.model.code.remove(page));
                }
            }
            Op::Conceal(page) => self.conceal(*page),
            Op::Reveal(page) | Op::GiveUp(page) => {
                let gpa = Gpa(page * FRAME_SIZE + 8);
                let gives_up = matches!(op, Op::GiveUp(_));
                let wiped = self.world.wiped.len();
                let done = self.world.work(|split, views, pages| match gives_up {
                    true => split.give_up(gpa, views, pages),
                    false => split.reveal(gpa, views, pages),
                });
                let was_private = self.model.private.contains(page);
                // What ends needs no table.
                assert_eq!(done, Ok(was_private));
                self.model.private.remove(page);
                let wiped = &self.world.wiped[wiped..];
                let expected: &[_] = if gives_up && was_private {
                    &[*page]
                } else {
                    &[]
                };
                assert_eq!(wiped, expected);
            }
            Op::Forget => self.forget(),
            Op::Tables(budget) => self.world.machine.memory.budget = *budget,
            Op::Exchange(process, one, other) => {
                let top = self.world.guest.tops[*process];
                let slots = [SLOTS[*one], SLOTS[*other]];
                let [one, other] = slots.map(|slot| self.world.guest.read(top, slot));
                self.world.guest.write(top, slots[0], other);
                self.world.guest.write(top, slots[1], one);
                self.is_sane = false;
            }
        }
    }

    fn conceal(&mut self, page: u64) {
        let gpa = Gpa(page * FRAME_SIZE + 8);
        let is_ordinary = self.model.guarded.is_some()
            && self.model.guarded().all(|guarded| guarded != page)
            && !self.model.code.contains(&page)
            && !self.model.tables.contains(&page);
        let was_private = self.model.private.contains(&page);
        let has_room = self.model.private.len() < MOST_PRIVATE as usize;
        let done = self
            .world
            .work(|split, views, pages| split.conceal(gpa, views, pages));
        match done {
            Ok(()) => {
                assert!(was_private || is_ordinary && has_room);
                self.model.private.insert(page);
            }
            Err(Refusal::NotOrdinary) => assert!(!was_private && !is_ordinary),
            Err(Refusal::TooMany) => assert!(!was_private && !has_room),
            Err(Refusal::Views(error)) => self.check_ran_out(error),
            Err(Refusal::NoneAllowed) => panic!("{MOST_PRIVATE} are"),
        }
    }

    fn execute(&mut self, page: u64) {
        let gpa = Gpa(page * FRAME_SIZE + 8);
        let found = self
            .world
            .work(|split, views, pages| split.find_code(gpa, views, pages));
        match found {
            Ok(Fetch::Allowed) => {
                assert!(!self.tells);
                if self.world.machine.memory.budget < 12 {
                    // It may have come at the cost of all others.
                    let has = |page: &u64| {
                        let shown = self.world.shows(Side::Kernel, *page);
                        shown.is_some_and(|(_, perms)| perms.contains(EptPerms::EXECUTE))
                    };
                    self.model.code.retain(has);
                }
                self.model.code.insert(page);
            }
            Ok(Fetch::Elsewhere) => assert!(self.tells),
            Ok(Fetch::Refused) => assert!(self.model.private.contains(&page)),
            Err(error) => self.give_up(error),
        }
    }

    fn admit(&mut self, vcpu: u32, process: usize, names: &[Name], paths: &BTreeSet<u64>) {
        let before = self.reached();
        let expected = self.tables_of(process);
        let missing = names
            .iter()
            .any(|name| self.world.guest.table_of(process, name.gva).is_none());
        let tables: Vec<_> = paths.iter().map(|page| Gpa(page * FRAME_SIZE)).collect();
        match self.world.admit_by(vcpu, process, names, &tables) {
            Ok(_) => {
                self.change_paths(vcpu, paths);
                let had = self.model.names.get(&vcpu).is_some_and(|had| had == names);
                assert!(!missing || had, "a name without a table");
                let tables = names.iter();
                let tables = tables.filter_map(|n| self.world.guest.table_of(process, n.gva));
                self.model.replaced.extend(tables);
                self.model.tables.extend(expected);
                self.model.names.insert(vcpu, names.to_vec());
            }
            Err(error) => {
                let requested = |gva: Gva, frame: u64| {
                    let mut names = names.iter();
                    names.any(|name| {
                        (name.gva.0 ^ gva.0) & BELOW_SLOT == 0 && name.gpa.0 / FRAME_SIZE == frame
                    })
                };
                for (at, frame) in self.reached() {
                    assert!(
                        before.get(&at) == Some(&frame)
                            || requested(at.1, frame)
                            // Of tables that two slots lead to, one slot's names may come to be the other's.
                            || self.model.frames(at.1).contains(&frame),
                        "{at:?} leads to frame {frame} after {error}"
                    );
                }
                let few = |names: &[Name]| {
                    let blocks: BTreeSet<_> = names.iter().map(|n| n.gva.0 >> 21).collect();
                    blocks.len() <= BLOCKS
                };
                let mut all = self.model.names.values().map(Vec::as_slice);
                match error {
                    SplitError::NotKernels(_) => assert!(missing),
                    SplitError::NoPage => {
                        assert!(
                            !self.is_sane || !few(names) || !all.all(few),
                            "there are too few pages"
                        );
                    }
                    _ => self.check_ran_out(error),
                }
                // The VM stops.
                self.forget();
            }
        }
    }

    /// What is guarded from now on, or no longer, counts as code only once it is found again.
    fn change_paths(&mut self, vcpu: u32, paths: &BTreeSet<u64>) {
        let before: BTreeSet<_> = self.model.guarded().collect();
        self.model.paths.insert(vcpu, paths.clone());
        let after: BTreeSet<_> = self.model.guarded().collect();
        for page in before.symmetric_difference(&after) {
            if !self.model.private.contains(page) {
                self.model.code.remove(page);
            }
        }
    }

    fn give_up(&mut self, error: SplitError) {
        self.check_ran_out(error);
        self.forget();
    }

    /// Nothing else may keep a half from being hidden.
    fn check_ran_out(&mut self, error: SplitError) {
        let out_of_tables = ViewError::Ept(EptError::Table(TableError::OutOfTables));
        assert_eq!(error, SplitError::View(out_of_tables));
        assert!(self.world.machine.memory.budget < 12);
    }

    fn forget(&mut self) {
        self.world.machine.memory.budget = 100_000;
        self.world.wiped.clear();
        self.world.forget();
        let private = core::mem::take(&mut self.model.private);
        assert!(self.world.wiped.iter().eq(&private));
        self.model = Model::default();
    }

    fn tables_of(&self, process: usize) -> BTreeSet<u64> {
        let slots = SLOTS.iter().map(|slot| address(*slot, 0, 0, 0));
        let tables = slots.filter_map(|gva| self.world.guest.table_of(process, gva));
        tables.collect()
    }

    /// What user code comes to in the kernel half, by process, where its tables were admitted.
    fn reached(&self) -> BTreeMap<(usize, Gva), u64> {
        let mut reached = BTreeMap::new();
        for process in 0..PROCESSES {
            for gva in addresses() {
                let table = self.world.guest.table_of(process, gva);
                if table.is_some_and(|table| self.model.tables.contains(&table)) {
                    let frame = self.world.reach(Side::User, process, gva);
                    reached.extend(frame.map(|frame| ((process, gva), frame)));
                }
            }
        }
        reached
    }

    fn compare(&self) {
        self.compare_kernel_half();
        self.compare_user_half();
        self.compare_pages();
        let named: Vec<_> = self.world.split.named().collect();
        assert!(named.iter().eq(self.model.named()));
        let used = self.world.used_pages().len() as u64;
        assert!(used <= Split::pages(VCPUS).0);
        assert_eq!(used, self.world.machine.views.remapped().0);
    }

    fn compare_kernel_half(&self) {
        let reached = self.reached();
        for ((process, gva), frame) in &reached {
            assert!(
                self.model.frames(*gva).contains(frame),
                "process {process} comes to frame {frame} at {gva}, which nobody named"
            );
        }
        if !self.is_sane {
            return;
        }
        for name in self.model.named() {
            // Where two vCPUs disagree, the guest is between one and the other.
            let frames = self.model.frames(name.gva);
            for process in 0..PROCESSES {
                let table = self.world.guest.table_of(process, name.gva);
                if table.is_some() && frames.len() == 1 {
                    let frame = reached.get(&(process, name.gva));
                    assert_eq!(frame, frames.first(), "the way to {name:?}");
                }
            }
        }
    }

    fn compare_user_half(&self) {
        for process in 0..PROCESSES {
            for low in 0..5 {
                let gva = address(0, 0, 0, low);
                let frame = self.world.reach(Side::User, process, gva);
                assert_eq!(frame, self.world.reach(Side::Base, process, gva));
                assert_eq!(frame.is_some(), low < 4);
            }
        }
    }

    /// Each guest physical page in each view.
    fn compare_pages(&self) {
        let code = EptPerms::EXECUTE | EptPerms::USER_EXECUTE;
        let (kernel, user) = match self.tells {
            true => (
                EptPerms::ALL - EptPerms::USER_EXECUTE,
                EptPerms::ALL - EptPerms::EXECUTE,
            ),
            false => (EptPerms::ALL - code, EptPerms::ALL),
        };
        for page in 0..RAM {
            let is_code = self.model.code.contains(&page);
            let is_private = self.model.private.contains(&page);
            let is_guarded = !is_private && self.model.guarded().any(|guarded| guarded == page);
            let is_barrier = self.model.tables.contains(&page);
            let gpa = Gpa(page * FRAME_SIZE + 8);
            let place = |side| self.world.split.place(side, gpa);
            assert_eq!(place(Side::User) == Place::Barrier, is_barrier);
            assert_eq!(place(Side::Kernel) == Place::Guarded, is_guarded);
            let is_only_code = is_code && !is_guarded;
            assert_eq!(place(Side::Kernel) == Place::Code, is_only_code);
            assert_eq!(place(Side::Base), Place::Elsewhere);
            assert_eq!(
                self.world.shows(Side::Base, page),
                Some((page, EptPerms::ALL))
            );
            assert_eq!(place(Side::Kernel) == Place::Private, is_private);
            let shown = self.world.shows(Side::Kernel, page);
            assert_eq!(shown.is_none(), is_private);
            let (frame, perms) = shown.unwrap_or((page, kernel));
            let executable = if is_code { code } else { EptPerms::empty() };
            let unseen = match is_guarded || is_code {
                true => EptPerms::WRITE,
                false => EptPerms::empty(),
            };
            assert_eq!((frame, perms), (page, (kernel | executable) - unseen));
            match self.world.shows(Side::User, page) {
                Some((frame, perms)) if is_barrier => {
                    assert!(self.model.replaced.contains(&page));
                    assert!(frame >= RAM && perms == EptPerms::READ);
                }
                seen if is_barrier => {
                    assert!(seen.is_none() && !self.model.replaced.contains(&page));
                }
                seen => assert_eq!(seen, Some((page, user)), "page {page} in `user`"),
            }
        }
        let end = 1 << (WIDTH - 12);
        for page in RAM..RAM + 8 {
            assert_eq!(self.world.shows(Side::User, page), None);
        }
        assert_eq!(
            self.world
                .split
                .place(Side::User, Gpa((end - 1) * FRAME_SIZE)),
            Place::Barrier
        );
        for side in Side::ALL {
            assert_eq!(self.world.shows(side, end - 1), None, "the void");
        }
    }
}

fn run(tells: bool, seed: u64, ops: &[Op]) {
    let mut entries: Vec<Entry> = Vec::new();
    let mut pair = Pair {
        world: World::on(tells, &mut entries, VCPUS, seed),
        model: Model::default(),
        tells,
        is_sane: true,
    };
    for op in ops {
        pair.apply(op);
        pair.compare();
    }
    pair.world.end();
}

#[test]
fn before_anything_is_admitted_user_code_reaches_what_the_kernel_does() {
    let mut entries = Vec::new();
    let mut world = World::new(&mut entries, VCPUS, 7);
    (0..SLOTS.len()).for_each(|slot| world.guest.share(0, slot));
    let frames: BTreeSet<u64> = addresses()
        .filter_map(|gva| {
            let frame = world.reach(Side::Base, 0, gva);
            assert_eq!(world.reach(Side::User, 0, gva), frame);
            frame.filter(|_| slot_of(gva) >= 256)
        })
        .collect();
    assert!(
        frames.len() as u64 > DATA / 2,
        "the kernel half has {frames:?}"
    );
    world.end();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn user_code_reaches_exactly_what_is_named_after_any_operations(
        tells in any::<bool>(),
        seed in any::<u64>(),
        ops in prop::collection::vec(op(), 1..32),
    ) {
        run(tells, seed, &ops);
    }

    #[test]
    fn whatever_tables_a_kernel_exchanges_user_code_reaches_nothing_that_is_not_named(
        tells in any::<bool>(),
        seed in any::<u64>(),
        ops in prop::collection::vec(wild_op(), 1..32),
    ) {
        run(tells, seed, &ops);
    }
}
