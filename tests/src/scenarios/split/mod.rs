//! The kernel/user split: what a Linux does without, which it has to do with it, too, and what a kernel shows its user code by mistake.
//!
//! `mistakes` and `attacks` have a guest of their own, which is kernel and user code; `processor` runs it, and a Linux, on processors that have less. The others have Linux:
//! `guest` boots the Linux; `selftests` runs its kernel's tests of the entry code, `stress` a program that enters and leaves the
//! kernel in every way there is, `measure` one that does so in one way, many times; `samples` checks what the hypervisor saw within reach meanwhile; `with` compares, and `life` lets other kernels follow. Each takes a [`Guest`](guest::Guest), which says whether the VM
//! is split, and gives results that can be compared.

mod attacks;
mod guest;
mod life;
mod measure;
mod mistakes;
mod processor;
mod samples;
mod selftests;
mod stress;
mod with;

use crate::scenario::Scenario;

pub fn scenarios() -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    scenarios.extend(selftests::scenarios());
    scenarios.extend(stress::scenarios());
    scenarios.extend(measure::scenarios());
    scenarios.extend(with::scenarios());
    scenarios.extend(life::scenarios());
    scenarios.extend(mistakes::scenarios());
    scenarios.extend(attacks::scenarios());
    scenarios.extend(processor::scenarios());
    scenarios
}
