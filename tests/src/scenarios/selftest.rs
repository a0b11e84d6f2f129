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
    /// CPUs of the machine.
    cpus: u32,
}

const PROVOCATIONS: [Provocation; 7] = [
    Provocation {
        name: "panic_says_where_and_stops",
        hypervisor: "selftest = \"panic\"",
        says: &["provoked by selftest"],
        function: "selftest::run",
        cpus: 1,
    },
    Provocation {
        name: "own_code_cannot_be_written",
        hypervisor: "selftest = \"write-code\"",
        says: &["exception 14 (page fault), error code 0x3", "cr2 0x"],
        function: "selftest::run",
        cpus: 1,
    },
    Provocation {
        name: "own_data_cannot_be_executed",
        hypervisor: "selftest = \"execute-data\"",
        says: &["exception 14 (page fault), error code 0x11", "cr2 0x"],
        function: "handover::after_firmware",
        cpus: 1,
    },
    Provocation {
        name: "stack_overflow_ends_at_the_guard_page",
        hypervisor: "selftest = \"stack-overflow\"",
        says: &["exception 8 (double fault)"],
        function: "selftest::overflow",
        cpus: 1,
    },
    Provocation {
        name: "a_frame_that_is_not_mapped_cannot_be_read",
        hypervisor: "selftest = \"read-unmapped\"",
        says: &["exception 14 (page fault), error code 0x0", "cr2 0x"],
        function: "selftest::run",
        cpus: 1,
    },
    Provocation {
        name: "a_machine_check_that_nothing_explains_stops_the_machine",
        hypervisor: "selftest = \"machine-check\"",
        says: &[
            "machine check, and no bank holds an error: the machine is stopped",
            "exception 18 (machine check)",
        ],
        function: "selftest::run",
        cpus: 1,
    },
    Provocation {
        name: "a_panic_on_one_cpu_stops_the_others_and_names_it",
        hypervisor: "selftest = \"panic-other-cpu\"",
        says: &["on CPU 1:", "provoked on another CPU by selftest"],
        function: "call::carry_out",
        cpus: 2,
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
    let setup = Setup {
        cpus: provocation.cpus,
        ..Setup::default()
    };
    let mut machine = context.start(context.boot_guest(&manifest)?, setup)?;
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
