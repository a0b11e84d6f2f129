//! Bulkhead's protections of its own memory, attacked from within, and the report that each attack ends in.

use crate::context::{Context, Setup};
use crate::lab::HELLO;
use crate::manifest::Manifest;
use crate::outcome::Outcome;
use crate::scenario::{Ground, Scenario};

const LIMIT: u64 = 180;

/// A failure that the manifest asks for, and how the report names it.
struct Failure {
    name: &'static str,
    hypervisor: &'static str,
    report: &'static str,
}

const FAILURES: [Failure; 5] = [
    Failure {
        name: "own_code_cannot_be_written",
        hypervisor: "selftest = \"write-code\"",
        report: r"exception 14 \(page fault\), error code 0x3\n",
    },
    Failure {
        name: "own_data_cannot_be_executed",
        hypervisor: "selftest = \"execute-data\"",
        report: r"exception 14 \(page fault\), error code 0x11\n",
    },
    Failure {
        name: "stack_overflow_ends_at_the_guard_page",
        hypervisor: "selftest = \"stack-overflow\"",
        report: r"exception 8 \(double fault\), error code 0x0\n",
    },
    Failure {
        name: "a_frame_that_is_not_mapped_cannot_be_read",
        hypervisor: "selftest = \"read-unmapped\"",
        report: r"exception 14 \(page fault\), error code 0x0\n",
    },
    Failure {
        name: "panic_says_where_and_stops",
        hypervisor: "selftest = \"panic\"",
        report: "provoked by selftest",
    },
];

pub fn scenarios() -> Vec<Scenario> {
    FAILURES
        .iter()
        .map(|failure| {
            let name = format!("selftest_{}", failure.name);
            Scenario::new(name, Ground::Vmx, LIMIT, |context| report(context, failure))
        })
        .collect()
}

/// The report names the failure and a way back through the code, and nothing runs afterwards.
fn report(context: &Context<'_>, failure: &Failure) -> Outcome {
    let mut manifest = Manifest::of(HELLO);
    manifest.hypervisor = failure.hypervisor;
    let boot = context.boot(&manifest.to_string())?;
    let mut machine = context.start(boot, Setup::default())?;
    machine.expect("Bulkhead has failed and stopped this machine")?;
    machine.expect(failure.report)?;
    machine.expect(r"image base 0x[0-9a-f]+\n")?;
    machine.expect(r"#0 0x[0-9a-f]+")?;
    machine.expect("stopped; switch the machine off")?;
    machine.event("panic", 0)?;
    let started = machine
        .events()
        .iter()
        .any(|event| event.name() == "vm-start");
    machine.ensure(!started, || "a VM was started".to_owned())
}
