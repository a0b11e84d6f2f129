//! Whoever can write to the machine's memory can stop a VM, and no more: what was sealed comes back as it was, or not at all.

use bulkhead_core::addr::{FRAME_SIZE, Gpa, Hpa};

use super::operator;
use super::victim::{self, OFF, PAGE, SWEPT, Victim, WINDOW};
use crate::context::Context;
use crate::machine::Machine;
use crate::outcome::Outcome;
use crate::scenario::{Ground, Scenario};

const LIMIT: u64 = 600;
/// The bit that is flipped: any would do.
const BIT: (usize, u8) = (2345, 1 << 3);

const FLIPPED: Victim = victim("flipped", 0x5eed_0011);
const SPLICED: Victim = victim("spliced", 0x5eed_0012);
const ROLLED_BACK: Victim = victim("rolled-back", 0x5eed_0013);
/// Nobody touches it.
const WITNESS: Victim = victim("witness", 0x5eed_0014);
/// It is not encrypted.
const OPEN: Victim = victim("open", 0x5eed_0015);
/// What the page is made from that is written later.
const LATER: u64 = 0x5eed_0016;

const fn victim(name: &'static str, seed: u64) -> Victim {
    Victim { name, seed }
}

pub fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new(
        "secmem_tampering_with_sealed_memory_stops_that_vm_and_no_other",
        Ground::Bochs,
        LIMIT,
        tamper,
    )]
}

fn tamper(context: &Context<'_>) -> Outcome {
    let sealed = [FLIPPED, SPLICED, ROLLED_BACK, WITNESS];
    let mut vms: Vec<_> = sealed.map(|vm| vm.manifest(WINDOW)).into();
    vms.push(OPEN.manifest(OFF));
    let mut machine = victim::start(context, "", vms)?;
    for vm in sealed.into_iter().chain([OPEN]) {
        vm.ready(&mut machine)?;
        vm.sweep(&mut machine)?;
    }

    let page = sealed_frame(&mut machine, FLIPPED, PAGE)?;
    flip(&machine, page)?;
    is_stopped(context, &mut machine, FLIPPED)?;

    let pages = [PAGE, SWEPT].map(|gpa| sealed_frame(&mut machine, SPLICED, gpa));
    let [one, other] = pages;
    swap(&machine, one?, other?)?;
    is_stopped(context, &mut machine, SPLICED)?;

    let page = sealed_frame(&mut machine, ROLLED_BACK, PAGE)?;
    let old = read(&machine, page)?;
    let change = format!("change {LATER:#x}");
    ROLLED_BACK.ask(&mut machine, &change, "secret: changed\n")?;
    ROLLED_BACK.sweep(&mut machine)?;
    let page = sealed_frame(&mut machine, ROLLED_BACK, PAGE)?;
    let new = read(&machine, page)?;
    machine.ensure(old != new, || {
        "a page that was changed is the same when it is sealed".to_owned()
    })?;
    machine.freeze()?.write(page, &old)?;
    is_stopped(context, &mut machine, ROLLED_BACK)?;

    // Without encryption nobody notices: the guest's data is another.
    let answer = operator::look(&mut machine, OPEN.name, PAGE, 16)?;
    let page = answer
        .hpa()
        .ok_or_else(|| machine.failure(&format!("`memory` answers {answer:?}")))?;
    flip(&machine, page)?;
    let intact = OPEN.is_intact(&mut machine)?;
    machine.ensure(!intact, || {
        "a flipped bit in memory that is not encrypted changed nothing?".to_owned()
    })?;

    WITNESS.sweep(&mut machine)?;
    WITNESS.ensure_intact(&mut machine)?;
    let stopped = machine.count("vm-stop", |_| true);
    machine.ensure(stopped == 3, || format!("{stopped} VMs stopped"))
}

/// Where the machine has a page of `vm` that is sealed.
fn sealed_frame(machine: &mut Machine<'_>, vm: Victim, gpa: Gpa) -> Outcome<Hpa> {
    let answer = operator::look(machine, vm.name, gpa, 16)?;
    answer
        .hpa()
        .filter(|_| answer.is_sealed())
        .ok_or_else(|| machine.failure(&format!("`memory` answers {answer:?}")))
}

/// The VM reads its page, and is stopped for what was done to it.
fn is_stopped(context: &Context<'_>, machine: &mut Machine<'_>, vm: Victim) -> Outcome {
    vm.tell(machine, "check")?;
    let report = machine.event_of(vm.name, "integrity", 0)?;
    let gpa = report.text("gpa").to_owned();
    let stop = machine.event_of(vm.name, "vm-stop", 0)?;
    context.note(format!("{}: {}", vm.name, stop.text("reason")));
    machine.ensure(gpa == PAGE.to_string(), || {
        format!("the report names {gpa}, not {PAGE}")
    })?;
    machine.ensure(stop.text("reason").contains("integrity"), || {
        format!("it stopped for another reason: {}", stop.0)
    })
}

fn read(machine: &Machine<'_>, frame: Hpa) -> Outcome<Vec<u8>> {
    let mut bytes = vec![0; FRAME_SIZE as usize];
    machine.freeze()?.read(frame, &mut bytes)?;
    Ok(bytes)
}

fn flip(machine: &Machine<'_>, frame: Hpa) -> Outcome {
    let (byte, bit) = BIT;
    let mut bytes = read(machine, frame)?;
    bytes[byte] ^= bit;
    Ok(machine.freeze()?.write(frame, &bytes)?)
}

fn swap(machine: &Machine<'_>, one: Hpa, other: Hpa) -> Outcome {
    let bytes = [read(machine, one)?, read(machine, other)?];
    let frozen = machine.freeze()?;
    frozen.write(one, &bytes[1])?;
    Ok(frozen.write(other, &bytes[0])?)
}
