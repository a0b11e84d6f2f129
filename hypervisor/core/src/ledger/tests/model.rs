//! A million random steps of five owners, each predicted by a plain model of what the ledger should allow.

use crate::addr::{Frame, FrameCount};

use super::super::*;
use super::{RW, Scrubbed, entries, run};

const FRAMES: u64 = 256 + 192;
const STEPS: u32 = 1_000_000;

/// A small deterministic generator (xorshift64*): the same million steps every time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    fn owner(&mut self) -> Owner {
        match self.below(5) {
            0 => Owner::Hypervisor,
            vm => Owner::Vm(VmId(vm as u16)),
        }
    }

    fn vm(&mut self) -> VmId {
        VmId(1 + self.below(4) as u16)
    }

    fn run(&mut self) -> FrameRun {
        let first = 250 + self.below(FRAMES - 250);
        run(first, 1 + self.below(12))
    }
}

/// What the model knows of one frame.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Known {
    owner: Owner,
    state: State,
    borrower: Option<VmId>,
    maps: u32,
    borrower_maps: u32,
    version: u32,
}

struct Model {
    frames: Vec<Known>,
    /// The key of each VM's life; another begins each time that it takes frames.
    keys: [u32; 5],
    rights: Vec<MapRight>,
    granted: u32,
}

impl Model {
    fn all(&self, run: FrameRun, test: impl Fn(&Known) -> bool) -> bool {
        run.end().0 <= FRAMES && self.frames[span(run)].iter().all(test)
    }

    /// An owner and a run that mostly suit each other: from a random frame on as far as all is alike.
    fn aim(&self, random: &mut Random) -> (Owner, VmId, FrameRun) {
        let wanted = random.run();
        let first = &self.frames[wanted.first.0 as usize];
        let alike = self.frames[wanted.first.0 as usize..]
            .iter()
            .take(wanted.count.0 as usize)
            .take_while(|known| (known.owner, known.state) == (first.owner, first.state));
        let run = FrameRun::new(wanted.first, FrameCount(alike.count() as u64));
        match first.owner {
            Owner::Vm(vm) => (first.owner, vm, run),
            owner => (owner, random.vm(), run),
        }
    }

    /// `owner` has taken `run`.
    fn take(&mut self, run: FrameRun, owner: Owner) {
        assert!(self.all(run, available), "{run:?} was not available");
        self.change(run, |known| {
            known.owner = owner;
            known.version = 0;
            if known.state == State::Free {
                known.state = State::Clear;
            }
        });
        if let Owner::Vm(vm) = owner {
            self.keys[usize::from(vm.0)] += 5;
        }
    }

    fn change(&mut self, run: FrameRun, change: impl Fn(&mut Known)) {
        self.frames[span(run)].iter_mut().for_each(change);
    }

    fn count(&mut self, right: &MapRight, by: i32) {
        let holder = right.holder();
        self.change(right.run(), |known| {
            let borrowed = matches!(holder, Holder::Vm(vm) if known.owner != Owner::Vm(vm));
            let count = if borrowed {
                &mut known.borrower_maps
            } else {
                &mut known.maps
            };
            *count = count.checked_add_signed(by).unwrap();
        });
    }
}

fn span(run: FrameRun) -> core::ops::Range<usize> {
    run.first.0 as usize..run.end().0 as usize
}

fn available(known: &Known) -> bool {
    known.owner == Owner::Nobody && known.state != State::Absent
}

fn unmapped(known: &Known) -> bool {
    known.maps + known.borrower_maps == 0
}

fn may_map(known: &Known, vm: VmId) -> bool {
    let concerned = known.owner == Owner::Vm(vm) || known.borrower == Some(vm);
    concerned && matches!(known.state, State::Clear | State::Shared)
}

fn step(random: &mut Random, ledger: &mut Ledger<'_>, model: &mut Model) {
    let (owner, vm, wanted) = match random.below(4) {
        0 => (random.owner(), random.vm(), random.run()),
        _ => model.aim(random),
    };
    match random.below(13) {
        0 | 1 => {
            let owner = random.owner();
            match ledger.alloc_run(owner, Request::anywhere(wanted.count)) {
                Ok(run) => {
                    assert!(run.first.0 >= 256 && run.count == wanted.count);
                    model.take(run, owner);
                }
                Err(_) => {
                    let frames = &model.frames[256..];
                    let fits = frames
                        .windows(wanted.count.0 as usize)
                        .any(|w| w.iter().all(available));
                    assert!(!fits, "a run of {} was available", wanted.count.0);
                }
            }
        }
        2 => {
            let owner = random.owner();
            let free = model.frames[256..]
                .iter()
                .filter(|known| available(known))
                .count() as u64;
            let mut got = Vec::new();
            let done = ledger.alloc_frames(owner, wanted.count, |run| got.push(run));
            assert_eq!(done.is_ok(), free >= wanted.count.0);
            for run in got {
                model.take(run, owner);
            }
        }
        3 | 4 => {
            let ownable = matches!(owner, Owner::Hypervisor | Owner::Vm(_));
            let mine = |known: &Known| known.owner == owner && unmapped(known);
            let allowed = ownable && model.all(wanted, mine);
            assert_eq!(ledger.free(owner, wanted).is_ok(), allowed);
            if allowed {
                model.change(wanted, |known| {
                    *known = Known {
                        owner: Owner::Nobody,
                        state: State::Dirty,
                        borrower: None,
                        version: 0,
                        ..*known
                    };
                });
            }
        }
        5 => {
            let inside = wanted.end().0 <= FRAMES;
            assert_eq!(
                ledger.scrub(wanted, &mut Scrubbed::default()).is_ok(),
                inside
            );
            if inside {
                model.change(wanted, |known| {
                    if known.state == State::Dirty {
                        let free = known.owner == Owner::Nobody;
                        known.state = if free { State::Free } else { State::Clear };
                    }
                });
            }
        }
        6 | 7 => {
            let allowed = model.all(wanted, |known| may_map(known, vm));
            keep(model, ledger.grant(vm, wanted, RW), allowed);
        }
        8 => {
            let allowed = model.all(wanted, |known| known.owner == Owner::Hypervisor);
            keep(model, ledger.grant_own(wanted, RW), allowed);
            let allowed = model.all(wanted, |known| may_map(known, vm));
            keep(model, ledger.grant_window(vm, wanted, RW), allowed);
        }
        9 => {
            for _ in 0..5 {
                if !model.rights.is_empty() {
                    let pick = random.below(model.rights.len() as u64) as usize;
                    let right = model.rights.swap_remove(pick);
                    model.count(&right, -1);
                    ledger.surrender(right);
                }
            }
        }
        10 => {
            let unshared = |known: &Known| {
                known.owner == Owner::Vm(vm) && unmapped(known) && known.state != State::Shared
            };
            let allowed = model.all(wanted, unshared);
            assert_eq!(ledger.discard(vm, wanted).is_ok(), allowed);
            if allowed {
                model.change(wanted, |known| known.state = State::Dirty);
            }
        }
        11 => {
            let to = random.vm();
            let clear = |known: &Known| known.owner == Owner::Vm(vm) && known.state == State::Clear;
            let allowed = to != vm && model.all(wanted, clear);
            if to != vm {
                assert_eq!(ledger.share(vm, to, wanted, RW).is_ok(), allowed);
            }
            if allowed {
                model.change(wanted, |known| {
                    known.state = State::Shared;
                    known.borrower = Some(to);
                });
            }
            let shared = |known: &Known| {
                known.owner == Owner::Vm(vm)
                    && known.state == State::Shared
                    && known.borrower_maps == 0
            };
            let other = random.run();
            let allowed = model.all(other, shared);
            assert_eq!(ledger.unshare(vm, other).is_ok(), allowed);
            if allowed {
                model.change(other, |known| {
                    known.state = State::Clear;
                    known.borrower = None;
                });
            }
        }
        _ => {
            let owned = |known: &Known| known.owner == Owner::Vm(vm);
            let sealable = model.all(wanted, |k| {
                owned(k) && k.state == State::Clear && unmapped(k)
            });
            let key = model.keys[usize::from(vm.0)];
            let sealed = ledger.seal(vm, wanted, KeyId(key));
            if sealable {
                model.change(wanted, |known| {
                    known.state = State::Sealed;
                    known.version += 1;
                });
                for frame in span(wanted) {
                    let info = ledger.info(Frame(frame as u64)).unwrap();
                    assert_eq!(info.key, KeyId(key));
                    assert_eq!(info.version, model.frames[frame].version);
                }
            }
            // Kept for a while, as by who encrypts.
            keep(model, sealed, sealable);
            let other = random.run();
            let unsealable = model.all(other, |k| {
                owned(k) && k.state == State::Sealed && unmapped(k)
            });
            let granted = ledger.grant_unseal(vm, other);
            assert_eq!(granted.is_ok(), unsealable);
            if let Ok((unsealing, right)) = granted {
                if random.below(4) == 0 {
                    // It did not verify.
                    ledger.surrender(right);
                } else {
                    ledger.unseal(unsealing, right).unwrap();
                    model.change(other, |known| known.state = State::Clear);
                }
            }
            let looked = random.run();
            let visible = model.all(looked, |k| {
                owned(k) && k.state == State::Sealed && unmapped(k)
            });
            keep(model, ledger.grant_inspect(vm, looked), visible);
        }
    }
}

fn keep(model: &mut Model, granted: Result<MapRight, LedgerError>, allowed: bool) {
    assert_eq!(granted.is_ok(), allowed, "{granted:?}");
    if let Ok(right) = granted {
        model.count(&right, 1);
        model.rights.push(right);
        model.granted += 1;
    }
}

#[test]
fn a_million_random_steps_agree_with_the_model() {
    let mut entries = entries(FRAMES as usize);
    let mut ledger = super::usable(&mut entries);
    let fresh = Known {
        owner: Owner::Nobody,
        state: State::Dirty,
        borrower: None,
        maps: 0,
        borrower_maps: 0,
        version: 0,
    };
    let mut model = Model {
        frames: vec![fresh; FRAMES as usize],
        // Each VM's are its own.
        keys: [0, 1, 2, 3, 4],
        rights: Vec::new(),
        granted: 0,
    };
    model.frames[0] = Known {
        owner: Owner::Firmware,
        state: State::Clear,
        ..fresh
    };
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut done = [0u32; 3];
    for i in 0..STEPS {
        step(&mut random, &mut ledger, &mut model);
        if i % 1024 != 0 {
            continue;
        }
        let states = [State::Sealed, State::Shared, State::Free];
        for (seen, state) in done.iter_mut().zip(states) {
            *seen += u32::from(model.frames.iter().any(|known| known.state == state));
        }
        assert!(ledger.books().balance(FrameCount(FRAMES)));
        assert_eq!(*ledger.books(), ledger.audit());
        for (frame, known) in model.frames.iter().enumerate() {
            let info = ledger.info(Frame(frame as u64)).unwrap();
            assert_eq!(
                (info.owner, info.state),
                (known.owner, known.state),
                "frame {frame}"
            );
            assert_eq!(info.version, known.version, "frame {frame}");
            assert_eq!(info.maps, known.maps + known.borrower_maps, "frame {frame}");
            assert_eq!(
                info.borrower.map(|(vm, _)| vm),
                known.borrower,
                "frame {frame}"
            );
        }
    }
    assert!(
        model.granted > STEPS / 32,
        "the steps hardly mapped anything"
    );
    assert!(
        done.iter().all(|seen| *seen > STEPS / 4096),
        "the steps missed states: {done:?}"
    );
}
