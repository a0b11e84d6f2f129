//! What of a guest's kernel is within reach at exits from its user code, through the guest's tables and the view it is in: with the split what is
//! named, fewer than 32 frames, and without it as much as the VM has memory, at least.

use std::collections::BTreeSet;

use xtask::session::events::Event;

use super::guest::Guest;
use crate::machine::Machine;
use crate::outcome::Outcome;

const EVENT: &str = "split-sample";
/// More frames than the split shows of any kernel.
const FRAMES: u64 = 32;
/// Pages of memory that the VM has.
const PAGES: u64 = (256 << 20) / 4096;

/// How many there were up to now.
pub fn count(machine: &mut Machine<'_>) -> usize {
    machine.count(EVENT, |_| true)
}

/// Fails unless there were `least` after the first `before`, some of each vCPU, and all are as they should be.
pub fn ensure_since(
    machine: &mut Machine<'_>,
    guest: Guest,
    before: usize,
    least: usize,
) -> Outcome {
    let events = machine.events();
    let samples = events.iter().filter(|event| event.name() == EVENT);
    let samples: Vec<_> = samples.skip(before).collect();
    let vcpus: BTreeSet<_> = samples.iter().filter_map(|s| s.number("vcpu")).collect();
    let wrong: Vec<_> = samples.iter().filter(|s| !is_fine(guest, s)).collect();
    machine.ensure(wrong.is_empty(), || format!("{wrong:?}"))?;
    machine.ensure(
        samples.len() >= least && vcpus.len() == guest.vcpus as usize,
        || format!("{} samples of the vCPUs {vcpus:?}", samples.len()),
    )
}

fn is_fine(guest: Guest, sample: &Event) -> bool {
    let number = |key| sample.number(key).unwrap_or(u64::MAX);
    let is_whole = number("cut") == 0;
    is_whole
        && match guest.split {
            true => {
                let (frames, unnamed) = (number("frames"), number("unnamed"));
                number("in_user") == 1 && unnamed == 0 && (1..FRAMES).contains(&frames)
            }
            false => number("in_user") == 0 && number("unnamed") > 0 && number("pages") >= PAGES,
        }
}
