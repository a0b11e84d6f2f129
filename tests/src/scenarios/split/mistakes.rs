//! The kernel/user split: what a kernel shows its user code by mistake is out of reach, and everything else is as without.
//!
//! The guest `split` is kernel and user code. Each scenario with the split has a control without, in which user code reads the
//! kernel's secret.

use super::processor::Processor;
use crate::context::{Context, Setup};
use crate::lab::SPLIT;
use crate::machine::Machine;
use crate::manifest::Manifest;
use crate::outcome::Outcome;
use crate::scenario::{Ground, Scenario};

const LIMIT: u64 = 180;
/// The guest's cases that run unless one is asked for.
pub const CASES: [&str; 11] = [
    "round-trips",
    "interrupts",
    "faults",
    "mistake",
    "new-slot",
    "unseen-tables",
    "jump-to-user",
    "ldt",
    "set-up-anew",
    "vmfunc",
    "private",
];

pub fn scenarios() -> Vec<Scenario> {
    let scenario =
        |name, body: fn(&Context<'_>) -> Outcome| Scenario::new(name, Ground::Vmx, LIMIT, body);
    vec![
        scenario(
            "split_user_code_does_not_reach_what_its_kernel_shows_by_mistake",
            |context| all_cases(context, ALL).map(drop),
        ),
        scenario(
            "split_without_it_user_code_reaches_what_its_kernel_shows_by_mistake",
            |context| all_cases(context, Split::None).map(drop),
        ),
        scenario(
            "split_a_page_table_of_the_kernels_as_a_user_page_stops_the_vm",
            conflict,
        ),
        scenario(
            "split_without_it_a_page_table_may_be_a_user_page",
            no_conflict,
        ),
    ]
}

/// Whether the guest is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// It is not.
    None,
    /// It is, by what its processor has.
    On(Processor),
}

const ALL: Split = Split::On(Processor::ALL);

pub fn start<'a>(context: &'a Context<'_>, case: &str, split: Split) -> Outcome<Machine<'a>> {
    let word = if split == Split::None { "no" } else { "yes" };
    let mut manifest = Manifest::of(SPLIT).with_cmdline(format!("split={word} {case}").trim());
    if let Split::On(processor) = split {
        if !processor.vmfunc {
            manifest.cmdline.push_str(" vmfunc=no");
        }
        manifest.hypervisor = processor.hypervisor();
        manifest = manifest.with(&processor.vm()).with("split_private = 1");
    }
    let boot = context.boot_guest(&manifest)?;
    context.start(boot, Setup::default())
}

/// Runs all cases; what the split did, by the names in events.
pub fn all_cases(context: &Context<'_>, split: Split) -> Outcome<serde_json::Value> {
    let mut machine = start(context, "", split)?;
    machine.expect("all cases done\n")?;
    let verdicts = CASES.map(|case| format!("case {case}: ok"));
    machine.ensure_console(&verdicts.each_ref().map(String::as_str))?;
    let counters = machine.event("counters", 0)?;
    let counts = &counters.0["split"];
    context.note(counts.to_string());
    for name in ["to-user", "to-kernel", "steps", "faults"] {
        let happened = counts[name].as_u64() > Some(0);
        machine.ensure(happened == (split != Split::None), || {
            format!("{name} in {counts}")
        })?;
    }
    machine.off()?;
    machine.ensure_events(&["vm-start", "vm-stop", "counters", "machine-off"])?;
    Ok(counts.clone())
}

fn conflict(context: &Context<'_>) -> Outcome {
    let mut machine = start(context, "case=conflict", ALL)?;
    machine.expect("case conflict: start\n")?;
    let fault = machine.event("guest-fault", 0)?;
    machine.ensure(fault.text("what") == "split-conflict", || {
        format!("it is stopped for another reason: {}", fault.0)
    })?;
    machine.off()?;
    machine.ensure_events(&[
        "vm-start",
        "guest-fault",
        "vm-stop",
        "counters",
        "machine-off",
    ])
}

fn no_conflict(context: &Context<'_>) -> Outcome {
    let mut machine = start(context, "case=conflict", Split::None)?;
    machine.expect("case conflict: ok\nall cases done\n")?;
    machine.off()?;
    machine.ensure_events(&["vm-start", "vm-stop", "counters", "machine-off"])
}
