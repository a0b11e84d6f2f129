//! Attacks on the gates of the kernel/user split: each is interrupted at every place, and reached for in every way.
//!
//! The guest `split` is left as Linux is, so that there are gates. What the hypervisor counts shows that they are used. Each attack has a control without
//! the split, with the same guest.

use super::mistakes;
use super::processor::Processor;
use crate::context::{Context, Setup};
use crate::lab::SPLIT;
use crate::machine::Machine;
use crate::manifest::Manifest;
use crate::outcome::{Outcome, ensure};
use crate::scenario::{Ground, Scenario};

const LIMIT: u64 = 180;
/// What is done to one vCPU.
const BREAKPOINTS: &[&str] = &["many", "breakpoints", "watchpoints"];
const STEPS: &[&str] = &["many", "steps"];
const ADDRESSES: &[&str] = &["many", "mapped", "reached", "forged"];
const NMIS: &[&str] = &["nmis"];
/// How often `many` goes into the kernel; the switches by exits of all other cases are fewer.
const MANY: u64 = 10_000;

pub fn scenarios() -> Vec<Scenario> {
    let scenario =
        |name, body: fn(&Context<'_>) -> Outcome| Scenario::new(name, Ground::Vmx, LIMIT, body);
    vec![
        scenario(
            "split_gates_keep_what_the_kernel_shows_by_mistake",
            |context| run(context, &Attack::of(&mistakes::CASES)).map(drop),
        ),
        scenario("split_single_steps_do_not_show_gates", steps),
        scenario(
            "split_breakpoints_in_gates_leave_the_kernel_out_of_reach",
            |context| run(context, &Attack::of(BREAKPOINTS)).map(drop),
        ),
        scenario(
            "split_without_mbec_breakpoints_in_gates_leave_the_kernel_out_of_reach",
            |context| run(context, &Attack::of(BREAKPOINTS).without_mbec()).map(drop),
        ),
        scenario(
            "split_without_mbec_gates_addresses_are_not_user_codes",
            |context| run(context, &Attack::of(ADDRESSES).without_mbec()).map(drop),
        ),
        scenario("split_without_it_there_is_nothing_to_break_in", |context| {
            run(context, &Attack::of(BREAKPOINTS).without()).map(drop)
        }),
        scenario("split_nmis_in_gates_come_back", |context| {
            run(context, &Attack::of(NMIS).with_vcpus(2)).map(drop)
        }),
        scenario("split_without_it_nmis_come_back", |context| {
            run(context, &Attack::of(NMIS).with_vcpus(2).without()).map(drop)
        }),
        scenario("split_gates_addresses_are_not_user_codes", |context| {
            run(context, &Attack::of(ADDRESSES)).map(drop)
        }),
        scenario(
            "split_without_it_gates_addresses_may_be_user_codes",
            |context| run(context, &Attack::of(ADDRESSES).without()).map(drop),
        ),
    ]
}

/// What runs, and in what.
#[derive(Debug, Clone, Copy)]
struct Attack {
    part: &'static str,
    cases: &'static [&'static str],
    split: bool,
    vcpus: u32,
    processor: Processor,
}

impl Attack {
    const fn of(cases: &'static [&'static str]) -> Self {
        Self {
            part: "",
            cases,
            split: true,
            vcpus: 1,
            processor: Processor::ALL,
        }
    }

    const fn without_mbec(self) -> Self {
        let processor = Processor {
            mbec: false,
            ..self.processor
        };
        Self { processor, ..self }
    }

    const fn without(self) -> Self {
        Self {
            split: false,
            ..self
        }
    }

    const fn with_vcpus(self, vcpus: u32) -> Self {
        Self { vcpus, ..self }
    }
}

fn run<'a>(context: &'a Context<'a>, attack: &Attack) -> Outcome<Machine<'a>> {
    let Attack {
        part,
        cases,
        split,
        vcpus,
        processor,
    } = *attack;
    let word = if split { "yes" } else { "no" };
    let chosen = cases.join(",");
    let mut manifest =
        Manifest::of(SPLIT).with_cmdline(format!("split={word} gates=yes case={chosen}"));
    if split {
        manifest.hypervisor = processor.hypervisor();
        manifest = manifest.with(&processor.vm()).with("split_private = 1");
    }
    if vcpus > 1 {
        manifest = manifest.with(&format!("vcpus = {vcpus}"));
    }
    let setup = Setup {
        part,
        cpus: vcpus,
        ..Setup::default()
    };
    let mut machine = context.start(context.boot_guest(&manifest)?, setup)?;
    machine.expect("all cases done\n")?;
    let counters = machine.event("counters", 0)?;
    machine.off()?;
    let verdicts: Vec<_> = cases
        .iter()
        .map(|case| format!("case {case}: ok"))
        .collect();
    let verdicts: Vec<_> = verdicts.iter().map(String::as_str).collect();
    machine.ensure_console(&verdicts)?;
    let counts = counters.0["split"].to_string();
    context.note(counts.clone());
    let to_user = counters.0["split"]["to-user"].as_u64().unwrap_or(0);
    machine.ensure((to_user > 0) == split && to_user < MANY / 2, || {
        format!("switches by exits: {counts}")
    })?;
    machine.ensure_events(&["vm-start", "vm-stop", "counters", "machine-off"])?;
    Ok(machine)
}

/// User code that steps through all that it has the kernel do sees the same with the split and without.
fn steps(context: &Context<'_>) -> Outcome {
    let told = |attack: Attack| {
        let console = run(context, &attack)?.console();
        let steps = console.lines().filter(|line| line.starts_with("step at "));
        Outcome::Ok(steps.map(str::to_owned).collect::<Vec<_>>())
    };
    let attack = Attack::of(STEPS);
    let with = told(Attack {
        part: "on",
        ..attack
    })?;
    let without = told(Attack {
        part: "off",
        ..attack.without()
    })?;
    context.note(format!("{} steps", with.len()));
    ensure(!with.is_empty() && with == without, || {
        format!("without the split: {without:#?}; with it: {with:#?}")
    })
}
