//! A VM that dies or rages beside one that works and checks itself: the one notices nothing of the other.
//!
//! The witness is the guest `burn`, `mode=check`: it says of every round whether memory, registers, timer and interrupts are
//! as they should be. Those of its counters that depend on its own instructions only ([`OWN_EXITS`], faults, frames) have to be
//! what they are when it runs alone; times, and exits that others can cause, are not compared.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use xtask::session::events::Event;

use crate::context::{Context, Setup};
use crate::lab::{BURN, FAULT, HELLO, SPLIT, VIRTIO};
use crate::machine::Machine;
use crate::manifest::{Group, Manifest};
use crate::outcome::Outcome;
use crate::scenario::{Ground, Scenario};

const LIMIT: u64 = 300;
const ROUNDS: u32 = 150;
/// How long a case that goes on for ever may rage after the witness is done.
const RAGE: Duration = Duration::from_secs(1);
/// How many ways there are to corrupt a device's rings.
const WAYS: usize = 50;
const RESTARTS: usize = 100;
/// Sectors of the disk, which hold their own addresses.
const IMAGE: &str = "disk.img";
const IMAGE_BYTES: u64 = 512 << 10;

/// What becomes of the other VM.
#[derive(Debug, Clone, Copy)]
enum End {
    /// It stops, for a reason with this in it, and is started again.
    Restarts(&'static str),
    /// It goes on: this pattern is on its console.
    GoesOn(&'static str),
}

/// Something a VM does.
#[derive(Debug, Clone, Copy)]
struct Fault {
    /// States what happens.
    name: &'static str,
    kernel: &'static str,
    cmdline: &'static str,
    vcpus: u32,
    end: End,
}

const fn fault(name: &'static str, cmdline: &'static str, end: End) -> Fault {
    Fault {
        name,
        kernel: FAULT,
        cmdline,
        vcpus: 1,
        end,
    }
}

const FAULTS: [Fault; 15] = [
    fault(
        "that_triple_faults",
        "case=triple-fault after=50000000",
        End::Restarts("triple fault"),
    ),
    fault(
        "that_reads_outside_its_memory",
        "case=outside-memory after=50000000",
        End::Restarts("where it has neither memory nor a device"),
    ),
    fault(
        "that_halts_for_good",
        "case=halt after=50000000",
        End::Restarts("halted"),
    ),
    fault(
        "that_resets",
        "case=reset after=50000000",
        End::Restarts("reset by the guest"),
    ),
    fault(
        "that_hangs_until_its_watchdog_ends_it",
        "case=watchdog after=20000000",
        End::Restarts("watchdog"),
    ),
    fault(
        "that_loops_with_interrupts_off",
        "case=if-off",
        End::GoesOn("fault: if-off begins\n"),
    ),
    fault(
        "that_storms_exits",
        "case=exit-storm",
        End::GoesOn("fault: exit-storm alive"),
    ),
    fault(
        "whose_timer_is_always_due",
        "case=timer-storm",
        End::GoesOn("fault: timer-storm alive"),
    ),
    fault(
        "that_floods_its_console",
        "case=console-flood",
        End::GoesOn("console-flood [0-9]{2}"),
    ),
    Fault {
        vcpus: 2,
        ..fault(
            "that_storms_its_vcpus_with_interrupts",
            "case=ipi-storm",
            End::GoesOn("fault: ipi-storm alive"),
        )
    },
    Fault {
        vcpus: 2,
        ..fault(
            "that_storms_its_vcpus_with_init",
            "case=init-storm",
            End::GoesOn("fault: init-storm alive"),
        )
    },
    Fault {
        kernel: SPLIT,
        ..fault(
            "whose_user_code_has_a_page_table_of_its_kernels",
            "case=conflict split=yes",
            End::Restarts("page tables"),
        )
    },
    Fault {
        kernel: VIRTIO,
        ..fault(
            "that_corrupts_its_rings_in_fifty_ways",
            "case=corrupt",
            End::Restarts("powered off"),
        )
    },
    Fault {
        kernel: VIRTIO,
        ..fault(
            "that_exhausts_its_queues",
            "case=exhaust",
            End::GoesOn("exhaust: alive"),
        )
    },
    Fault {
        kernel: VIRTIO,
        ..fault(
            "that_floods_the_network",
            "case=net role=flood",
            End::GoesOn("net: flood alive"),
        )
    },
];

pub fn scenarios() -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for fault in FAULTS {
        for cpus in [1, 2] {
            let where_to = if cpus == 1 { "a_cpu" } else { "two_cpus" };
            let name = format!("faults_a_vm_{}_harms_nobody_on_{where_to}", fault.name);
            let scenario = Scenario::new(name, Ground::Vmx, LIMIT, move |context| {
                beside_a_witness(context, fault, cpus)
            });
            // One CPU shows more of who holds up whom; two take longer to emulate.
            scenarios.push(match cpus {
                1 => scenario,
                _ => scenario.only_when_long(),
            });
        }
    }
    scenarios.push(Scenario::new(
        "faults_a_vm_stopped_in_the_middle_of_its_requests_harms_nobody",
        Ground::Vmx,
        LIMIT,
        stopped_at_work,
    ));
    scenarios.push(Scenario::new(
        "faults_a_hundred_restarts_return_every_frame",
        Ground::Vmx,
        2 * LIMIT,
        restarts,
    ));
    scenarios
}

fn witness() -> Manifest {
    Manifest::of(BURN)
        .named("witness")
        .with_cmdline(format!("mode=check rounds={ROUNDS} every=10"))
}

fn other(fault: Fault) -> Manifest {
    let mut vm = Manifest::of(fault.kernel)
        .named("other")
        .with_cmdline(fault.cmdline)
        .with(&format!("vcpus = {}", fault.vcpus))
        .restarting(match fault.end {
            // A VM whose end is to power off is started again only by this.
            End::Restarts("powered off") => "always",
            _ => "on-crash",
        });
    if fault.kernel == SPLIT {
        vm = vm.with("split = true");
    }
    if fault.kernel == VIRTIO {
        vm = vm.with_disk(IMAGE, "overlay = \"2M\"").with_nic("lan", "");
    }
    vm
}

fn beside_a_witness(context: &Context<'_>, fault: Fault, cpus: u32) -> Outcome {
    let alone = alone(context, cpus)?;
    let mut machine = start(context, "", [witness(), other(fault)], cpus)?;
    machine.expect("check: round 10 ok\n")?;
    if let End::Restarts(reason) = fault.end {
        let restart = machine.event_of("other", "vm-restart", 0)?;
        machine.ensure(restart.text("reason").contains(reason), || {
            format!("it restarts for another reason: {}", restart.0)
        })?;
        machine.event_of("other", "vm-start", 1)?;
    }
    let counters = finish_witness(&mut machine)?;
    machine.ensure(counters == alone, || {
        format!("the witness did {counters:?}, but {alone:?} when alone")
    })?;
    if let End::GoesOn(sign) = fault.end {
        machine.switch("other")?;
        machine.expect(sign)?;
        machine.watch(RAGE)?;
        let stops = machine.count("vm-stop", |event| event.text("vm") == "other");
        machine.ensure(stops == 0, || "the other VM stopped".to_owned())?;
    } else if fault.cmdline == "case=corrupt" {
        all_ways_were_survived(&mut machine)?;
    }
    machine.obey("stop other hard")?;
    machine.ensure_events(&["vm-start", "vm-start", "vm-stop", "counters"])
}

/// Waits until the witness has found everything in order; what it did.
fn finish_witness(machine: &mut Machine<'_>) -> Outcome<Work> {
    machine.expect(&format!(
        "check: (?:done {ROUNDS} rounds|FAIL .*|.* FAIL .*)\n"
    ))?;
    let console = machine.console();
    machine.ensure(!console.contains("FAIL"), || {
        "the witness saw something go wrong".to_owned()
    })?;
    let stop = machine.event_of("witness", "vm-stop", 0)?;
    machine.ensure(stop.text("reason").contains("powered off"), || {
        format!("the witness stopped otherwise: {}", stop.0)
    })?;
    let counters = machine.event_of("witness", "counters", 0)?;
    work(machine, &counters)
}

/// What a VM caused itself, by its counters: what does not depend on when others ran.
type Work = BTreeMap<String, u64>;

const OWN_EXITS: [&str; 5] = ["cpuid", "rdmsr", "wrmsr", "xsetbv", "control-register"];

fn work(machine: &Machine<'_>, counters: &Event) -> Outcome<Work> {
    let number = |key: &str| {
        counters
            .number(key)
            .ok_or_else(|| machine.failure(&format!("`counters` has no `{key}`")))
    };
    let mut work = Work::from([("faults".to_owned(), number("faults")?)]);
    for name in OWN_EXITS {
        let count = counters.0.pointer(&format!("/exits/{name}"));
        work.insert(name.to_owned(), count.and_then(Value::as_u64).unwrap_or(0));
    }
    let frames = counters.0.pointer("/frames/clear").and_then(Value::as_u64);
    work.insert("frames".to_owned(), frames.unwrap_or(0));
    // What every run has: without it two runs would compare equal by saying nothing.
    for name in ["wrmsr", "frames"] {
        if work.get(name).is_none_or(|count| *count == 0) {
            return Err(machine.failure(&format!("the counters say no `{name}`")));
        }
    }
    Ok(work)
}

/// What the witness does when it is the only VM; found out once a run for each number of CPUs.
fn alone(context: &Context<'_>, cpus: u32) -> Outcome<Work> {
    static KNOWN: Mutex<BTreeMap<u32, Work>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(work) = known.get(&cpus) {
        return Ok(work.clone());
    }
    let mut machine = start(context, "alone", [witness()], cpus)?;
    let work = finish_witness(&mut machine)?;
    machine.off()?;
    known.insert(cpus, work.clone());
    Ok(work)
}

/// The first life of the guest `virtio`: each way was survived, and the device worked again afterwards.
fn all_ways_were_survived(machine: &mut Machine<'_>) -> Outcome {
    machine.switch("other")?;
    machine.expect("case corrupt: ok\n")?;
    let console = machine.console();
    for number in 0..WAYS {
        let sign = format!("corrupt-{number} ");
        machine.ensure(
            console
                .lines()
                .any(|line| line.contains(&sign) && line.contains(": survived, status ")),
            || format!("way {number} was not survived"),
        )?;
    }
    Ok(())
}

fn stopped_at_work(context: &Context<'_>) -> Outcome {
    let alone = alone(context, 1)?;
    let worker = Fault {
        kernel: VIRTIO,
        ..fault("", "case=io", End::GoesOn(""))
    };
    let mut machine = start(context, "", [witness(), other(worker)], 1)?;
    machine.expect("check: round 10 ok\n")?;
    for life in 0..3 {
        machine.switch("other")?;
        machine.expect("io: alive [0-9]+\n")?;
        machine.obey("stop other hard")?;
        machine.event_of("other", "vm-stop", life)?;
        let disk = machine.event_of("other", "disk", life)?;
        machine.ensure(disk.number("errors") == Some(0), || {
            format!("its requests failed: {}", disk.0)
        })?;
        machine.obey("start other")?;
        machine.event_of("other", "vm-start", life + 1)?;
    }
    machine.obey("stop other hard")?;
    machine.switch("witness")?;
    let counters = finish_witness(&mut machine)?;
    machine.ensure(counters == alone, || {
        format!("the witness did {counters:?}, but {alone:?} when alone")
    })
}

/// The books and the heap are the same after a few restarts and after a hundred more. The VM that resets at once, each time, is
/// made to wait, and an operator's `start` cuts that short.
fn restarts(context: &Context<'_>) -> Outcome {
    let runs_on = Manifest::of(BURN).named("runs").with_cmdline("mode=idle");
    let restarts = Manifest::of(HELLO)
        .named("restarts")
        .with_cmdline("name=again then=reset")
        .restarting("always");
    let mut machine = start(context, "", [runs_on, restarts], 1)?;
    machine.event_of("restarts", "vm-restart", 2)?;
    let before = books_at_rest(&mut machine)?;
    let restarted = |event: &Event| event.text("vm") == "restarts";
    let wanted = machine.count("vm-restart", restarted) + RESTARTS;
    while machine.count("vm-restart", restarted) < wanted {
        let waits = machine.count("vm-back-off", restarted);
        // Refused where the wait was over first.
        machine.command("start restarts")?;
        machine.event_of("restarts", "vm-back-off", waits)?;
    }
    let after = books_at_rest(&mut machine)?;
    context.note(format!("books: {}", after.0));
    machine.ensure(
        after.0.get("balanced").and_then(Value::as_bool) == Some(true),
        || "the books do not balance".to_owned(),
    )?;
    for key in [
        "frames",
        "owners",
        "heap_used_bytes",
        "heap_free_bytes",
        "pool_frames",
    ] {
        machine.ensure(before.0.get(key) == after.0.get(key), || {
            format!(
                "{key} went from {:?} to {:?}",
                before.0.get(key),
                after.0.get(key)
            )
        })?;
    }
    let stops = machine.count("vm-stop", |event| event.text("vm") == "runs");
    machine.ensure(stops == 0, || "the other VM stopped".to_owned())
}

/// Stops the VM for good, whichever moment of its life it is in, and reads the books.
fn books_at_rest(machine: &mut Machine<'_>) -> Outcome<Event> {
    loop {
        let stop = machine.command("stop restarts hard")?;
        if stop.text("outcome").starts_with("is not running") {
            return machine.books();
        }
    }
}

fn start<'a>(
    context: &'a Context<'a>,
    part: &'static str,
    vms: impl Into<Vec<Manifest>>,
    cpus: u32,
) -> Outcome<Machine<'a>> {
    context.file(IMAGE, image())?;
    let setup = Setup {
        part,
        cpus,
        ..Setup::default()
    };
    context.start(context.boot_group(&Group::of(vms))?, setup)
}

/// A disk that holds its own addresses: the nth eight bytes hold n.
pub fn image() -> Vec<u8> {
    (0..IMAGE_BYTES / 8).flat_map(u64::to_le_bytes).collect()
}
