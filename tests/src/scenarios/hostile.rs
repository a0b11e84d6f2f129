//! A hostile guest, one attack a boot: it gets faults, or is stopped with a report; Bulkhead stays up and says so.
//!
//! The attacks are in `tests/guests/src/bin/hostile`. A guest that survives says `case <name>: ok`, with every attempt
//! refused; one that cannot is stopped, with the reason on the console and in the events.

use std::time::Duration;

use crate::context::{Context, Setup};
use crate::lab::HOSTILE;
use crate::manifest::Manifest;
use crate::outcome::Outcome;
use crate::scenario::{Ground, Scenario};

const LIMIT: u64 = 120;
/// How long an attack without an end is watched after that.
const WATCHED: Duration = Duration::from_secs(3);
/// How often an attack without an end has to say that it goes on.
const SIGNS_OF_LIFE: usize = 3;

/// How an attack ends.
#[derive(Debug, Clone, Copy)]
enum End {
    /// The guest got nothing but faults and harmless values, and powers off.
    Survives,
    /// The VM is stopped, for a reason that has this in it.
    Stopped(&'static str),
}

/// One attack.
#[derive(Debug, Clone, Copy)]
struct Attack {
    /// States what happens.
    name: &'static str,
    /// The guest's name for it.
    case: &'static str,
    /// Further words of the command line.
    words: &'static str,
    end: End,
}

const fn survives(name: &'static str, case: &'static str) -> Attack {
    Attack {
        name,
        case,
        words: "",
        end: End::Survives,
    }
}

const fn stopped(
    name: &'static str,
    case: &'static str,
    words: &'static str,
    reason: &'static str,
) -> Attack {
    Attack {
        name,
        case,
        words,
        end: End::Stopped(reason),
    }
}

const READ: &str = "the guest read ";
const WROTE: &str = "the guest wrote ";
const EXECUTED: &str = "the guest executed ";

const ATTACKS: &[Attack] = &[
    survives("msrs_of_every_class_fault_or_are_harmless", "msr-classes"),
    survives("every_port_in_every_width_is_harmless", "ports"),
    survives("string_io_is_harmless_or_faults", "string-io"),
    survives("every_cpuid_leaf_is_filtered", "cpuid"),
    survives("vmx_and_smx_instructions_are_undefined", "vmx"),
    survives("undefined_instructions_fault", "ud"),
    survives("wild_hypercalls_get_errors", "vmcall"),
    survives("illegal_xcr0_values_fault", "xsetbv"),
    survives("cache_control_is_harmless", "caches"),
    survives("monitor_and_mwait_are_harmless", "monitor"),
    survives("pause_loop_is_harmless", "pause"),
    survives("self_ipis_with_absurd_ids_fault_or_arrive", "self-ipi"),
    survives("illegal_control_register_values_fault", "cr-dr"),
    survives("mode_switches_down_and_up_work", "modes"),
    survives("exit_storm_ends_with_the_guest_alive", "exit-storm"),
    survives("init_to_itself_is_ignored", "self-init"),
    Attack {
        name: "device_registers_of_odd_widths_are_harmless",
        case: "mmio",
        words: "odd=no",
        end: End::Survives,
    },
    stopped(
        "device_registers_by_odd_instructions_stop_the_vm",
        "mmio",
        "",
        "unsupported instruction",
    ),
    stopped("read_behind_memory_stops_the_vm", "memory-read", "", READ),
    stopped(
        "read_below_4_gib_outside_memory_stops_the_vm",
        "memory-read",
        "at=0xfffff000",
        READ,
    ),
    stopped(
        "write_behind_memory_stops_the_vm",
        "memory-write",
        "",
        WROTE,
    ),
    stopped(
        "write_to_the_local_apic_page_stops_the_vm",
        "memory-write",
        "at=0xfee00000",
        WROTE,
    ),
    stopped(
        "fetch_behind_memory_stops_the_vm",
        "memory-fetch",
        "",
        EXECUTED,
    ),
    stopped(
        "fetch_from_an_absurd_address_stops_the_vm",
        "memory-fetch",
        "at=0x7ffffff000",
        EXECUTED,
    ),
    stopped(
        "task_switch_stops_the_vm",
        "task-switch",
        "",
        "hardware task switch",
    ),
    stopped(
        "halt_without_interrupts_stops_the_vm",
        "halt",
        "",
        "the guest halted",
    ),
    stopped(
        "triple_fault_stops_the_vm",
        "triple-fault",
        "",
        "triple fault",
    ),
];

pub fn scenarios() -> Vec<Scenario> {
    let mut scenarios: Vec<_> = ATTACKS
        .iter()
        .map(|attack| {
            let name = format!("hostile_{}", attack.name);
            Scenario::new(name, Ground::Vmx, LIMIT, |context| run(context, attack))
        })
        .collect();
    scenarios.push(Scenario::new(
        "hostile_triple_fault_restarts_the_vm_where_the_manifest_says_so",
        Ground::Vmx,
        LIMIT,
        restarts,
    ));
    scenarios.push(Scenario::new(
        "hostile_endless_exit_storm_does_not_bring_bulkhead_down",
        Ground::Vmx,
        LIMIT,
        |context| goes_on(context, "exit-storm", "endless=yes"),
    ));
    scenarios.push(Scenario::new(
        "hostile_endless_debug_exceptions_do_not_bring_bulkhead_down",
        Ground::Vmx,
        LIMIT,
        |context| goes_on(context, "db-loop", ""),
    ));
    scenarios.push(Scenario::new(
        "hostile_endless_alignment_checks_do_not_bring_bulkhead_down",
        Ground::Vmx,
        LIMIT,
        |context| goes_on(context, "ac-loop", ""),
    ));
    scenarios
}

fn manifest(case: &str, words: &str) -> Manifest {
    Manifest::of(HOSTILE).with_cmdline(format!("case={case} {words}").trim())
}

fn run(context: &Context<'_>, attack: &Attack) -> Outcome {
    let boot = context.boot_guest(&manifest(attack.case, attack.words))?;
    let mut machine = context.start(boot, Setup::default())?;
    machine.expect(&format!("case {}: start\n", attack.case))?;
    match attack.end {
        End::Survives => {
            let verdict = machine.expect(r"case \S+: (?:ok|FAIL.*)\n")?;
            machine.ensure(verdict == format!("case {}: ok\n", attack.case), || {
                format!("the guest says `{}`", verdict.trim())
            })?;
            machine.expect("all cases done\n")?;
        }
        End::Stopped(reason) => {
            let stop = machine.event("vm-stop", 0)?;
            machine.ensure(stop.text("reason").contains(reason), || {
                format!(
                    "the VM stopped for another reason than {reason:?}: {}",
                    stop.0
                )
            })?;
            let fault = machine.event("guest-fault", 0)?;
            machine.ensure(fault.text("rip").starts_with("0x"), || {
                format!("the report names no place: {}", fault.0)
            })?;
            machine.expect(r#"bulkhead: warning: VM "guest" is stopped"#)?;
            context.note(format!("stopped: {}", stop.text("reason")));
        }
    }
    machine.off()?;
    machine.ensure_events(&["vm-start", "vm-stop", "counters", "machine-off"])
}

fn restarts(context: &Context<'_>) -> Outcome {
    let mut manifest = manifest("triple-fault", "");
    manifest.restart = "on-crash";
    let boot = context.boot_guest(&manifest)?;
    let mut machine = context.start(boot, Setup::default())?;
    for life in 0..2 {
        let restart = machine.event("vm-restart", life)?;
        machine.ensure(restart.text("reason").contains("triple fault"), || {
            format!("it restarts for another reason: {}", restart.0)
        })?;
    }
    machine.event("vm-start", 2)?;
    machine.ensure_events(&[
        "vm-start",
        "guest-fault",
        "vm-stop",
        "counters",
        "vm-restart",
        "vm-start",
    ])
}

/// An attack without an end: the guest says again and again that it goes on unharmed, and neither it nor Bulkhead stops.
fn goes_on(context: &Context<'_>, case: &str, words: &str) -> Outcome {
    let boot = context.boot_guest(&manifest(case, words))?;
    let mut machine = context.start(boot, Setup::default())?;
    machine.expect(&format!("case {case}: start\n"))?;
    for _ in 0..SIGNS_OF_LIFE {
        machine.expect(&format!("{case}: alive [0-9]+\n"))?;
    }
    machine.watch(WATCHED)?;
    let console = machine.console();
    machine.ensure(!console.contains(&format!("detail {case}:")), || {
        "the guest saw something go wrong".to_owned()
    })?;
    let names: Vec<_> = machine
        .events()
        .iter()
        .map(|event| event.name().to_owned())
        .collect();
    machine.ensure(names.last().map(String::as_str) == Some("vm-start"), || {
        format!("something ended it: {names:?}")
    })
}
