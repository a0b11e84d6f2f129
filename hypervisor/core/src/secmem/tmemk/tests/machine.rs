//! A machine of two packages whose memory is encrypted on its way out of caches that know nothing of aliases: what the order of
//! [`HardwareKeys`] and the ledger's rules are for.

use std::collections::HashMap;

use super::*;
use crate::addr::{FrameCount, Gpa, Hva};
use crate::ept::{Ept, EptCaps, EptPerms};
use crate::hostpt::{HostAttr, HostError, HostTables, InvalidatePage};
use crate::ledger::{
    Entry, FrameRun, Ledger, LedgerError, MapRight, MemoryKind, MemoryRange, Owner, Request,
    Rights, Scrub, State, VmId,
};
use crate::table::PageSize;
use crate::table::fake::{FakeMemory, FakeTlb};
use crate::testing::Random;

const VM: VmId = VmId(0);
const NEXT: VmId = VmId(7);
const RW: Rights = Rights::READ.union(Rights::WRITE);
const SECRET: u64 = 0x5ec2_e75e_c2e7_5ec2;
const PACKAGES: usize = 2;

/// One word a frame; frames lie in the packages' memories in turn.
struct Machine {
    /// What lies in memory, encrypted.
    memory: HashMap<Frame, u64>,
    /// By address, key and all: the word, and whether memory has another.
    cache: HashMap<Frame, (u64, bool)>,
    /// Each package's keys by id.
    keys: [HashMap<u16, u64>; PACKAGES],
    random: u64,
    /// What each package's next PCONFIGs answer.
    answers: [Vec<u64>; PACKAGES],
    /// Whether caches are emptied when that is asked for.
    empties: bool,
    field: KeyField,
}

impl Machine {
    fn new() -> Self {
        let firmware = |frame| (Frame(frame), 0xf1f1_0000 + frame);
        Self {
            memory: (0..1024).map(firmware).collect(),
            cache: HashMap::new(),
            keys: [HashMap::from([(0, 0x1111)]), HashMap::from([(0, 0x2222)])],
            random: 0x9e37_79b9_7f4a_7c15,
            answers: [Vec::new(), Vec::new()],
            empties: true,
            field: find(GOOD).unwrap().field(),
        }
    }

    /// What a word in memory is combined with, at an address with a key id.
    fn mask(&self, address: Frame) -> u64 {
        let (frame, _) = self.field.split(address);
        let id = (address.start().0 >> self.field.shift()) as u16;
        let keys = &self.keys[frame.0 as usize % PACKAGES];
        keys.get(&id).copied().unwrap_or(keys[&0])
    }

    fn read(&mut self, address: Frame) -> u64 {
        let (frame, _) = self.field.split(address);
        let word = self.memory[&frame] ^ self.mask(address);
        self.cache.entry(address).or_insert((word, false)).0
    }

    fn write(&mut self, address: Frame, word: u64) {
        self.cache.insert(address, (word, true));
    }

    /// Caches write back what they like when they like: here, all that lies under one key.
    fn write_back(&mut self, wanted: impl Fn(KeyTag) -> bool) {
        let lines: Vec<_> = self.cache.iter().map(|(at, line)| (*at, *line)).collect();
        for (address, (word, changed)) in lines {
            let (frame, tag) = self.field.split(address);
            if wanted(tag) {
                if changed {
                    self.memory.insert(frame, word ^ self.mask(address));
                }
                self.cache.remove(&address);
            }
        }
    }
}

impl Engines for Machine {
    fn cpus(&self) -> usize {
        2 * PACKAGES
    }

    fn leads(&self, cpu: usize) -> bool {
        cpu.is_multiple_of(2)
    }

    fn program(&mut self, cpu: usize, program: &KeyProgram) -> Result<(), ProgramError> {
        assert!(self.leads(cpu));
        let package = cpu / 2;
        if let Some(answer) = self.answers[package].pop() {
            ProgramError::check(answer)?;
        }
        let id = program.key_id();
        assert!((1..=127).contains(&id) && program.control() >> 8 == 1 << 2);
        match program.control() & 0xff {
            1 => {
                self.random = self.random.rotate_left(9).wrapping_mul(5);
                self.keys[package].insert(id, self.random);
            }
            2 => {
                self.keys[package].remove(&id);
            }
            command => panic!("command {command}"),
        }
        Ok(())
    }

    fn empty_caches(&mut self) {
        if self.empties {
            self.write_back(|_| true);
        }
    }
}

impl Scrub for Machine {
    fn scrub(&mut self, right: MapRight) -> MapRight {
        for frame in right.run().first.0..right.run().end().0 {
            self.write(right.tag().on(Frame(frame)), 0);
        }
        right
    }
}

fn ledger(entries: &mut [Entry]) -> Ledger<'_> {
    let run = FrameRun::new(Frame(0), FrameCount(entries.len() as u64));
    let all = MemoryRange {
        run,
        kind: MemoryKind::Usable,
    };
    Ledger::new(entries, [all].into_iter())
}

/// Takes frames for `vm`, which are zero and dirty in the caches as the machine's own, and puts them under a key.
fn create(
    vm: VmId,
    machine: &mut Machine,
    ledger: &mut Ledger<'_>,
    keys: &mut HardwareKeys,
) -> (FrameRun, HardwareKey) {
    let run = ledger
        .alloc_run(Owner::Vm(vm), Request::anywhere(FrameCount(4)))
        .unwrap();
    ledger.scrub(run, machine).unwrap();
    let key = keys
        .make(machine, |tag| ledger.rekey(vm, &[run], tag))
        .unwrap();
    // Whatever is left of the old key's lines arrives as late as it can.
    ledger.scrub(run, machine).unwrap();
    let new = key.tag();
    machine.write_back(|tag| tag == new);
    machine.write_back(|tag| tag != new);
    (run, key)
}

fn destroy(
    vm: VmId,
    (run, key): (FrameRun, HardwareKey),
    machine: &mut Machine,
    ledger: &mut Ledger<'_>,
    keys: &mut HardwareKeys,
) {
    keys.erase(key, machine, |tag| ledger.rekey(vm, &[run], tag))
        .unwrap();
    ledger.free(Owner::Vm(vm), run).unwrap();
    ledger.scrub(run, machine).unwrap();
    machine.write_back(|tag| !tag.is_key());
    machine.write_back(|_| true);
}

/// What the hypervisor reads of `run` through a window.
fn look(vm: VmId, run: FrameRun, machine: &mut Machine, ledger: &mut Ledger<'_>) -> Vec<u64> {
    let right = ledger.grant_window(vm, run, RW).unwrap();
    let tag = right.tag();
    ledger.surrender(right);
    (run.first.0..run.end().0)
        .map(|frame| machine.read(tag.on(Frame(frame))))
        .collect()
}

/// What there is to see of two VMs, one after the other in the same frames and under the same id.
#[derive(PartialEq, Debug)]
struct TwoLives {
    /// What the first finds.
    first: Vec<u64>,
    /// Whether its secret lies in memory, or can be had under the machine's own key.
    shows: bool,
    /// What its frames hold when they were given back.
    freed: Vec<u64>,
    /// What the second one finds.
    second: Vec<u64>,
}

fn two_lives(empties: bool) -> TwoLives {
    let mut machine = Machine {
        empties,
        ..Machine::new()
    };
    let mut entries = vec![Entry::ABSENT; 512];
    let (mut ledger, mut keys) = (ledger(&mut entries), HardwareKeys::new(find(GOOD).unwrap()));
    let (run, key) = create(VM, &mut machine, &mut ledger, &mut keys);
    let frames = || (run.first.0..run.end().0).map(Frame);
    let (first, id) = (look(VM, run, &mut machine, &mut ledger), key.id());
    frames().for_each(|frame| machine.write(key.tag().on(frame), SECRET));
    let mut shows = frames().any(|frame| machine.read(frame) == SECRET);
    let own = key.tag();
    machine.write_back(|tag| tag == own && empties);
    shows |= machine.memory.values().any(|word| *word == SECRET);
    destroy(VM, (run, key), &mut machine, &mut ledger, &mut keys);
    let freed = frames().map(|frame| machine.read(frame)).collect();
    let (again, key) = create(NEXT, &mut machine, &mut ledger, &mut keys);
    assert_eq!(
        (again, key.id()),
        (run, id),
        "the second is to have what the first had"
    );
    let second = look(NEXT, run, &mut machine, &mut ledger);
    destroy(NEXT, (run, key), &mut machine, &mut ledger, &mut keys);
    TwoLives {
        first,
        shows,
        freed,
        second,
    }
}

#[test]
fn a_vm_finds_zeroes_and_leaves_zeroes_whenever_caches_write_back() {
    let seen = TwoLives {
        first: vec![0; 4],
        shows: false,
        freed: vec![0; 4],
        second: vec![0; 4],
    };
    assert_eq!(two_lives(true), seen);
}

#[test]
fn with_caches_left_as_they_are_it_would_not() {
    let seen = two_lives(false);
    assert_ne!(seen.first, [0; 4]);
    assert_ne!(seen.freed, [0; 4]);
}

#[test]
fn packages_that_are_busy_are_asked_again() {
    let mut machine = Machine::new();
    machine.answers = [vec![5; 900], vec![2, 5, 2]];
    let mut keys = HardwareKeys::new(find(GOOD).unwrap());
    let key = keys.make(&mut machine, |_| Ok(())).unwrap();
    assert_eq!(key.id().number(), 1);
    assert!(machine.keys.iter().all(|keys| keys.contains_key(&1)));
}

#[test]
fn a_package_that_refuses_leaves_no_key_in_the_others() {
    let mut machine = Machine::new();
    machine.answers[1] = vec![4];
    let mut keys = HardwareKeys::new(find(GOOD).unwrap());
    let refused = keys.make(&mut machine, |_| panic!("frames were put under half a key"));
    assert_eq!(refused, Err(KeyError::Program(ProgramError::Algorithm)));
    assert!(machine.keys.iter().all(|keys| !keys.contains_key(&1)));
}

#[test]
fn an_id_whose_key_cannot_be_cleared_is_not_used_again() {
    let mut machine = Machine::new();
    let mut keys = HardwareKeys::new(find(GOOD).unwrap());
    let key = keys.make(&mut machine, |_| Ok(())).unwrap();
    machine.answers[1] = vec![99];
    let kept = keys.erase(key, &mut machine, |_| Ok(()));
    assert_eq!(kept, Err(KeyError::Program(ProgramError::Unknown(99))));
    assert!(!machine.keys[0].contains_key(&1) && machine.keys[1].contains_key(&1));
    let next = keys.make(&mut machine, |_| Ok(())).unwrap();
    assert_eq!(next.id().number(), 2);
}

#[test]
fn frames_that_are_mapped_keep_their_key() {
    let mut machine = Machine::new();
    let mut entries = vec![Entry::ABSENT; 512];
    let (mut ledger, mut keys) = (ledger(&mut entries), HardwareKeys::new(find(GOOD).unwrap()));
    let (run, key) = create(VM, &mut machine, &mut ledger, &mut keys);
    let right = ledger.grant(VM, run, RW).unwrap();
    let refused = keys.erase(key, &mut machine, |tag| ledger.rekey(VM, &[run], tag));
    let mapped = LedgerError::StillMapped(run.first);
    assert_eq!(refused, Err(KeyError::Ledger(mapped)));
    ledger.surrender(right);
    // The key was not erased, so the frames are still under it: nobody else gets them.
    assert_eq!(
        ledger.free(Owner::Vm(VM), run),
        Err(LedgerError::UnderKey(VM))
    );
    assert!(machine.keys[0].contains_key(&1));
}

#[test]
fn keys_run_out_and_come_back() {
    let mut machine = Machine::new();
    let capability = 6 << 32 | 2 << 36;
    let mut keys = HardwareKeys::new(find(Registers { capability, ..GOOD }).unwrap());
    let mut make = |machine: &mut Machine| keys.make(machine, |_| Ok(()));
    let (one, two) = (make(&mut machine).unwrap(), make(&mut machine).unwrap());
    assert_eq!(make(&mut machine), Err(KeyError::NoneFree));
    assert_eq!((one.id().number(), two.id().number()), (1, 2));
    keys.erase(one, &mut machine, |_| Ok(())).unwrap();
    let again = keys.make(&mut machine, |_| Ok(())).unwrap();
    assert_eq!(again.id().number(), 1);
}

#[test]
fn more_than_64_keys_are_left_alone() {
    let mut machine = Machine::new();
    let registers = Registers {
        capability: 7 << 32 | 127 << 36,
        activate: 0b11 | 7 << 32 | 1 << 50,
        ..GOOD
    };
    let found = find(registers).unwrap();
    assert_eq!(found.count(), 127);
    let mut keys = HardwareKeys::new(found);
    for number in 1..=64 {
        let key = keys.make(&mut machine, |_| Ok(())).unwrap();
        assert_eq!(key.id().number(), number);
    }
    assert_eq!(keys.make(&mut machine, |_| Ok(())), Err(KeyError::NoneFree));
}

#[test]
fn all_mappings_of_a_frame_are_under_its_key() {
    let mut machine = Machine::new();
    let mut entries = vec![Entry::ABSENT; 2048];
    let (mut ledger, mut keys) = (ledger(&mut entries), HardwareKeys::new(find(GOOD).unwrap()));
    let request = Request {
        align: PageSize::Size2M,
        ..Request::anywhere(FrameCount(513))
    };
    let run = ledger.alloc_run(Owner::Vm(VM), request).unwrap();
    let key = keys
        .make(&mut machine, |tag| ledger.rekey(VM, &[run], tag))
        .unwrap();
    ledger.scrub(run, &mut machine).unwrap();
    let mut memory = FakeMemory::new(64);
    let caps = EptCaps::negotiate(u64::MAX)
        .unwrap()
        .with_keys(machine.field);
    let mut ept = Ept::new(VM, caps, &mut memory).unwrap();
    let right = ledger.grant(VM, run, RW).unwrap();
    let perms = EptPerms::READ | EptPerms::WRITE;
    ept.map_memory(&mut memory, Gpa(0), right, perms, &Mtrrs::DISABLED)
        .unwrap();

    // What the processor walks to has the key in it; what the hypervisor is told has not.
    let leaf = ept.translate(&memory, Gpa(0x3000)).unwrap();
    assert_eq!((leaf.frame, leaf.size), (run.first, PageSize::Size2M));
    let small = ept.translate(&memory, Gpa(0x20_0000)).unwrap();
    assert_eq!(small.frame, Frame(run.first.0 + 512));
    let entries = memory.tables.values().flatten();
    let ids: Vec<u64> = entries.map(|entry| entry >> 46 & 0x3f).collect();
    let leaves = ids.iter().filter(|id| **id != 0);
    assert_eq!(leaves.copied().collect::<Vec<_>>(), [1, 1]);

    // A page is split, protected and taken out under the same key.
    let piece = FrameRun::new(Frame(run.first.0 + 1), FrameCount(1));
    let evidence = ledger.grant(VM, piece, Rights::READ).unwrap();
    let stale = ept
        .protect(&mut memory, Gpa(0x1000), EptPerms::READ, &evidence)
        .unwrap();
    let proof = ept.flush(&mut FakeTlb::default());
    stale.flushed(&proof, &mut memory).unwrap();
    ledger.surrender(evidence);
    let unmapped = ept.unmap_run(&mut memory, Gpa(0), FrameCount(513));
    let unmapped = unmapped.unwrap().unwrap();
    let proof = ept.flush(&mut FakeTlb::default());
    let (at, right) = unmapped.flushed(&proof, &mut memory).unwrap();
    assert_eq!(
        (at, right.run().first, right.tag()),
        (Gpa(0), run.first, key.tag())
    );
    ledger.surrender(right);

    // The window shows them so, too, and nothing else of the hypervisor's does.
    let mut tables = HostTables::new(&mut memory, PageSize::Size1G).unwrap();
    let place = Hva(0x7f00_0000_0000);
    let mut window = tables.window(&mut memory, place, FrameCount(4)).unwrap();
    let right = ledger.grant_window(VM, piece, RW).unwrap();
    window.open(&mut memory, right).unwrap();
    let shown = tables.translate(&memory, place).unwrap();
    assert_eq!(shown.frame, key.tag().on(piece.first));
    let right = window.close(&mut memory, &mut NoTlb).unwrap();
    let refused = tables
        .map(&mut memory, Hva(0x1000), right, HostAttr::DATA)
        .unwrap_err();
    assert_eq!(refused.error, HostError::UnderKey(Hva(0x1000)));
}

struct NoTlb;

impl InvalidatePage for NoTlb {
    fn invalidate_page(&mut self, _at: Hva) {}
}

#[test]
fn a_key_is_for_all_frames_of_a_vm_at_once() {
    let mut entries = vec![Entry::ABSENT; 512];
    let mut ledger = ledger(&mut entries);
    let tag = find(GOOD)
        .unwrap()
        .field()
        .tag(HardwareKeyId::new(3).unwrap())
        .unwrap();
    let take = |ledger: &mut Ledger<'_>, count| {
        let request = Request::anywhere(FrameCount(count));
        ledger.alloc_run(Owner::Vm(VM), request).unwrap()
    };
    let (one, two) = (take(&mut ledger, 2), take(&mut ledger, 3));
    let partly = Err(LedgerError::NotAllFrames(VM));
    assert_eq!(ledger.rekey(VM, &[one], tag), partly);
    assert_eq!(ledger.rekey(VM, &[one, one], tag), partly);
    assert_eq!(ledger.rekey(VM, &[one, two], KeyTag::NONE), partly);
    assert_eq!(
        ledger.rekey(NEXT, &[one, two], tag),
        Err(LedgerError::NotOwner(one.first))
    );
    ledger.rekey(VM, &[one, two], tag).unwrap();
    assert_eq!(ledger.rekey(VM, &[one, two], tag), partly);
    assert_eq!(ledger.info(one.first).unwrap().state, State::Dirty);
    let request = Request::anywhere(FrameCount(1));
    let refused = Err(LedgerError::UnderKey(VM));
    assert_eq!(ledger.alloc_run(Owner::Vm(VM), request), refused);
    let more = ledger.alloc_frames(Owner::Vm(VM), FrameCount(1), |_| {
        panic!("frames were taken")
    });
    assert_eq!(more, refused.map(drop));
    assert!(ledger.alloc_run(Owner::Vm(NEXT), request).is_ok());
    ledger.rekey(VM, &[two, one], KeyTag::NONE).unwrap();
    ledger.free(Owner::Vm(VM), one).unwrap();
}

#[test]
fn one_right_is_not_to_frames_under_two_keys() {
    let mut machine = Machine::new();
    let mut entries = vec![Entry::ABSENT; 512];
    let mut ledger = ledger(&mut entries);
    let field = machine.field;
    let frames = FrameCount(2);
    let lent = ledger
        .alloc_run(Owner::Vm(VM), Request::anywhere(frames))
        .unwrap();
    let own = ledger
        .alloc_run(Owner::Vm(NEXT), Request::anywhere(frames))
        .unwrap();
    let tag = field.tag(HardwareKeyId::new(3).unwrap()).unwrap();
    ledger.rekey(VM, &[lent], tag).unwrap();
    for run in [lent, own] {
        ledger.scrub(run, &mut machine).unwrap();
    }
    ledger.share(VM, NEXT, lent, Rights::READ).unwrap();
    let borrowed = ledger.grant(NEXT, lent, Rights::READ).unwrap();
    assert_eq!(borrowed.tag(), tag);
    ledger.surrender(borrowed);
    let both = FrameRun::new(lent.first, FrameCount(4));
    assert_eq!(
        ledger.grant(NEXT, both, Rights::READ),
        Err(LedgerError::OtherKey(own.first))
    );
    // While it is lent, the key cannot be erased under the borrower.
    assert_eq!(
        ledger.rekey(VM, &[lent], KeyTag::NONE),
        Err(LedgerError::StillMapped(lent.first))
    );
}

/// A VM as the test knows it.
struct Known {
    run: FrameRun,
    key: HardwareKey,
    words: Vec<u64>,
}

#[test]
fn vms_find_what_they_wrote_whatever_comes_between() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut machine = Machine::new();
    let mut entries = vec![Entry::ABSENT; 320];
    let (mut ledger, mut keys) = (ledger(&mut entries), HardwareKeys::new(find(GOOD).unwrap()));
    let mut vms: [Option<Known>; 4] = [const { None }; 4];
    let (mut lives, mut reads) = (0, 0);
    for _ in 0..200_000 {
        let index = random.below(4) as usize;
        let vm = VmId(index as u16);
        let Some(known) = &mut vms[index] else {
            let request = Request::anywhere(FrameCount(1 + random.below(6)));
            let run = ledger.alloc_run(Owner::Vm(vm), request).unwrap();
            if random.below(2) == 0 {
                ledger.scrub(run, &mut machine).unwrap();
            }
            let rekey = |tag| ledger.rekey(vm, &[run], tag);
            let key = keys.make(&mut machine, rekey).unwrap();
            ledger.scrub(run, &mut machine).unwrap();
            let words = vec![0; run.count.0 as usize];
            vms[index] = Some(Known { run, key, words });
            lives += 1;
            continue;
        };
        let at = random.below(known.run.count.0);
        let address = known.key.tag().on(Frame(known.run.first.0 + at));
        match random.below(32) {
            0 => {
                let Some(Known { run, key, .. }) = vms[index].take() else {
                    unreachable!();
                };
                let rekey = |tag| ledger.rekey(vm, &[run], tag);
                keys.erase(key, &mut machine, rekey).unwrap();
                ledger.free(Owner::Vm(vm), run).unwrap();
                if random.below(2) == 0 {
                    ledger.scrub(run, &mut machine).unwrap();
                }
            }
            1..8 => {
                let word = random.next();
                machine.write(address, word);
                known.words[at as usize] = word;
            }
            8..12 => {
                // Of each key's lines all or none, in whatever order: bit 0 for the machine's own.
                let (some, shift) = (random.next(), machine.field.shift());
                let id = |tag: KeyTag| tag.on(Frame(0)).start().0 >> shift;
                machine.write_back(|tag| some >> id(tag) & 1 == 1);
            }
            _ => {
                assert_eq!(machine.read(address), known.words[at as usize]);
                reads += 1;
            }
        }
    }
    assert!(
        lives > 2_000 && reads > 50_000,
        "{lives} lives, {reads} words read"
    );
}
