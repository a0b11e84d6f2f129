//! Keys: whoever reads the machine's memory finds those of the VMs that live, and none of one that is gone.
//!
//! Nobody tells the keys. They are found in the dump by what an expanded key looks like ([`crate::physical::schedule`]), which is
//! also the proof that they could be: a search that finds nothing has shown nothing.

use std::collections::BTreeSet;

use super::operator::{self, Answer};
use super::victim::{self, PAGE, Victim, WINDOW};
use crate::context::Context;
use crate::machine::Machine;
use crate::outcome::Outcome;
use crate::physical::{Frozen, Schedule, Strings};
use crate::scenario::{Ground, Scenario};

const LIMIT: u64 = 300;
/// Expanded keys of a VM: two of AES-256-XTS, one of the tag.
const KEYS: usize = 3;
/// From the expanded key for data to the one for tweaks, with the one for decryption between them.
const XTS_DISTANCE: u64 = 1024;
/// What lies before the expanded key of the tag: eight powers of the key that pages are hashed with.
const POWERS: usize = 8 * 16;

const DOOMED: Victim = Victim {
    name: "doomed",
    seed: 0x5eed_0004,
};
const SURVIVOR: Victim = Victim {
    name: "survivor",
    seed: 0x5eed_0005,
};

pub fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new(
        "secmem_keys_of_a_destroyed_vm_are_nowhere_in_memory",
        Ground::Bochs,
        LIMIT,
        destroyed,
    )]
}

fn destroyed(context: &Context<'_>) -> Outcome {
    let vms = [DOOMED.manifest(WINDOW), SURVIVOR.manifest(WINDOW)];
    let mut machine = victim::start(context, "", vms)?;
    for vm in [DOOMED, SURVIVOR] {
        vm.ready(&mut machine)?;
        vm.sweep(&mut machine)?;
    }
    let alive = Keys::in_memory_of(&machine)?;
    context.note(format!("{} expanded keys of two VMs", alive.0.len()));
    machine.ensure(alive.0.len() == 2 * KEYS, || {
        format!("two VMs live, with these keys: {:x?}", alive.places())
    })?;
    machine.obey("stop doomed hard")?;
    operator::wait_for(context, &mut machine, (DOOMED.name, PAGE), |answer| {
        *answer == Answer::Nothing
    })?;
    let left = Keys::in_memory_of(&machine)?;
    let (kept, gone): (Vec<_>, Vec<_>) = alive.0.iter().partition(|key| left.has(key));
    machine.ensure(
        kept.len() == KEYS && gone.len() == KEYS && left.0.len() == KEYS,
        || format!("one VM lives, with these keys: {:x?}", left.places()),
    )?;
    // Every 16 bytes of them: halves of the keys, round keys for either direction, powers of the hash key.
    let of_the_living = search(&machine, &kept)?;
    machine.ensure(of_the_living >= KEYS * 15, || {
        format!("the living VM's keys are in only {of_the_living} places?")
    })?;
    let of_the_dead = search(&machine, &gone)?;
    context.note(format!(
        "traces of keys: {of_the_living} of the living VM, {of_the_dead} of the destroyed one"
    ));
    machine.ensure(of_the_dead == 0, || {
        format!("the destroyed VM's keys are in {of_the_dead} places")
    })?;
    SURVIVOR.ensure_intact(&mut machine)
}

/// An expanded key, and what gives it away.
#[derive(Debug)]
struct Key {
    schedule: Schedule,
    traces: Vec<[u8; 16]>,
}

/// All expanded keys in a machine's memory.
#[derive(Debug)]
struct Keys(Vec<Key>);

impl Keys {
    fn in_memory_of(machine: &Machine<'_>) -> Outcome<Self> {
        let frozen = machine.freeze()?;
        let schedules = frozen.schedules()?;
        let keys = schedules.iter().map(|schedule| {
            let mut traces = schedule.traces();
            let is_xts = schedules
                .iter()
                .any(|other| schedule.at.0.abs_diff(other.at.0) == XTS_DISTANCE);
            if !is_xts {
                traces.extend(powers(&frozen, schedule)?);
            }
            Ok(Key {
                schedule: *schedule,
                traces,
            })
        });
        keys.collect::<Outcome<_>>().map(Self)
    }

    fn has(&self, key: &Key) -> bool {
        self.0
            .iter()
            .any(|other| other.schedule.key == key.schedule.key)
    }

    /// Where they are; what they are is nobody's business, the test's report least of all.
    fn places(&self) -> BTreeSet<u64> {
        self.0.iter().map(|key| key.schedule.at.0).collect()
    }
}

/// What lies before the tag's expanded key.
fn powers(frozen: &Frozen, schedule: &Schedule) -> Outcome<Vec<[u8; 16]>> {
    let mut bytes = [0; POWERS];
    let start = bulkhead_core::addr::Hpa(schedule.at.0.saturating_sub(POWERS as u64));
    frozen.read(start, &mut bytes)?;
    Ok(bytes.as_chunks().0.to_vec())
}

/// In how many places something of `keys` is.
fn search(machine: &Machine<'_>, keys: &[&Key]) -> Outcome<usize> {
    let strings = Strings::of(keys.iter().flat_map(|key| key.traces.iter().copied()))?;
    Ok(machine.freeze()?.find(&strings)?.0.len())
}
