//! Bulkhead's protections of its own memory, attacked from within, and the report that each attack ends in.
//!
//! `hypervisor.selftest` in the manifest provokes each; see `docs/manifest.md`.

use crate::context::{Context, Setup};
use crate::lab::HELLO;
use crate::manifest::Manifest;
use crate::outcome::Outcome;
use crate::scenario::{Ground, Scenario};

const LIMIT: u64 = 180;

/// A provoked failure.
#[derive(Debug, Clone, Copy)]
struct Provocation {
    /// States what happens.
    name: &'static str,
    /// The value of `hypervisor.selftest`.
    hypervisor: &'static str,
    /// What the report has to say, in this order.
    says: &'static [&'static str],
    /// A function that the backtrace has to name.
    function: &'static str,
}

const PROVOCATIONS: [Provocation; 5] = [
    Provocation {
        name: "panic_says_where_and_stops",
        hypervisor: "selftest = \"panic\"",
        says: &["provoked by selftest"],
        function: "selftest::run",
    },
    Provocation {
        name: "own_code_cannot_be_written",
        hypervisor: "selftest = \"write-code\"",
        says: &["exception 14 (page fault), error code 0x3", "cr2 0x"],
        function: "selftest::run",
    },
    Provocation {
        name: "own_data_cannot_be_executed",
        hypervisor: "selftest = \"execute-data\"",
        says: &["exception 14 (page fault), error code 0x11", "cr2 0x"],
        function: "handover::after_firmware",
    },
    Provocation {
        name: "stack_overflow_ends_at_the_guard_page",
        hypervisor: "selftest = \"stack-overflow\"",
        says: &["exception 8 (double fault)"],
        function: "probestack",
    },
    Provocation {
        name: "a_frame_that_is_not_mapped_cannot_be_read",
        hypervisor: "selftest = \"read-unmapped\"",
        says: &["exception 14 (page fault), error code 0x0", "cr2 0x"],
        function: "selftest::run",
    },
];

pub fn scenarios() -> Vec<Scenario> {
    PROVOCATIONS
        .into_iter()
        .map(|one| {
            let name = format!("selftest_{}", one.name);
            Scenario::new(name, Ground::Vmx, LIMIT, move |context| {
                provoke(context, one)
            })
        })
        .collect()
}

fn provoke(context: &Context<'_>, provocation: Provocation) -> Outcome {
    let mut manifest = Manifest::of(HELLO);
    manifest.hypervisor = provocation.hypervisor;
    let mut machine = context.start(context.boot_guest(&manifest)?, Setup::default())?;
    machine.event("panic", 0)?;
    machine.expect(r"\*\*\* stopped; switch the machine off \*\*\*")?;
    let mut fragments = vec!["*** Bulkhead has failed and stopped this machine ***"];
    fragments.extend(provocation.says);
    fragments.extend(["image base 0x", "backtrace"]);
    machine.ensure_console(&fragments)?;
    let console = machine.console();
    machine.ensure(
        console.matches("*** Bulkhead has failed").count() == 1,
        || "the report reports itself".to_owned(),
    )?;
    let lines = machine.named_backtrace()?;
    machine.ensure(
        lines.iter().any(|line| line.contains(provocation.function)),
        || format!("the backtrace does not name {}", provocation.function),
    )?;
    let events = machine.events();
    machine.ensure(
        events.iter().all(|event| event.name() != "vm-start"),
        || "a VM was started".to_owned(),
    )
}
