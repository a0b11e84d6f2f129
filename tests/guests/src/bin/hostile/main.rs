//! Attacks the hypervisor, one case a run: `case=<name>` on the command line chooses it.
//!
//! A case passes when every attempt ended in a fault or a harmless value and the guest is still here to say so. Some cases
//! cannot survive by design (`triple-fault`, perhaps `memory-*`): there the harness expects the hypervisor's report instead.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "executes hostile instructions on purpose")]

mod control;
mod cpuid;
mod flow;
mod instructions;
mod ipi;
mod loops;
mod memory;
mod mmio;
mod modes;
mod msr;
mod ports;

use test_guests::case::Case;
use test_guests::params::Params;
use test_guests::{guest, println};

guest!(main);

type CaseFn = fn(&mut Case, &Params);

const CASES: &[(&str, CaseFn)] = &[
    ("msr-classes", msr::every_class),
    ("ports", ports::every_port),
    ("string-io", ports::string_io),
    ("cpuid", cpuid::every_leaf),
    ("vmx", instructions::vmx_and_smx),
    ("ud", instructions::undefined),
    ("vmcall", instructions::wild_hypercalls),
    ("xsetbv", instructions::xsetbv),
    ("caches", instructions::caches),
    ("monitor", instructions::monitor),
    ("pause", instructions::pause_loop),
    ("memory-read", memory::read),
    ("memory-write", memory::write),
    ("memory-fetch", memory::fetch),
    ("mmio", mmio::odd_accesses),
    ("self-ipi", ipi::absurd),
    ("self-init", ipi::init_self),
    ("cr-dr", control::illegal_values),
    ("modes", modes::round_trip),
    ("task-switch", modes::task_switch),
    ("triple-fault", flow::triple_fault),
    ("exit-storm", flow::exit_storm),
    ("halt", flow::halt),
    ("db-loop", loops::debug),
    ("ac-loop", loops::alignment),
];

fn main(params: &Params) {
    let wanted = params.get("case").unwrap_or("");
    match CASES.iter().find(|(name, _)| *name == wanted) {
        Some((name, run)) => {
            let mut case = Case::start(name);
            run(&mut case, params);
            case.finish();
        }
        None => {
            println!("case runtime: FAIL no case named '{wanted}'; there are:");
            for (name, _) in CASES {
                println!("  {name}");
            }
        }
    }
}
