//! Who can find a VM's page: another VM, the operator, whoever has a dump of the machine's memory.

use std::time::Instant;

use bulkhead_core::addr::{FRAME_SIZE, Gpa, Hpa};

use super::operator::{self, Answer};
use super::victim::{self, AT_REST, MEMORY_BYTES, OFF, PAGE, SWEPT, Victim, WINDOW};
use crate::context::Context;
use crate::machine::Machine;
use crate::outcome::Outcome;
use crate::scenario::{Ground, Scenario};

const LIMIT: u64 = 300;
/// A page near the end of a VM's memory.
const LAST: Gpa = Gpa(MEMORY_BYTES - (1 << 20));
const VICTIM: Victim = Victim {
    name: "victim",
    seed: 0x5eed_0001,
};
const THIEF: Victim = Victim {
    name: "thief",
    seed: 0x5eed_0002,
};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "secmem_nobody_finds_what_a_vm_has_outside_its_window",
            Ground::Bochs,
            LIMIT,
            window,
        ),
        Scenario::new(
            "secmem_nobody_finds_the_memory_of_a_paused_vm",
            Ground::Bochs,
            LIMIT,
            at_rest,
        ),
        Scenario::new(
            "secmem_what_is_not_encrypted_is_found_by_all_but_other_vms",
            Ground::Bochs,
            LIMIT,
            control,
        ),
        Scenario::new(
            "secmem_frames_of_a_stopped_vm_are_zero_in_the_next",
            Ground::Bochs,
            LIMIT,
            next,
        ),
    ]
}

fn window(context: &Context<'_>) -> Outcome {
    let vms = [VICTIM.manifest(WINDOW), THIEF.manifest(OFF)];
    let mut machine = victim::start(context, "", vms)?;
    VICTIM.ready(&mut machine)?;
    THIEF.ready(&mut machine)?;
    // While it is in use the page is the VM's alone: not the operator's, but in memory.
    VICTIM.ask(&mut machine, "touch", "secret: touched\n")?;
    in_the_clear(context, &mut machine)?;
    VICTIM.sweep(&mut machine)?;
    sealed(context, &mut machine)?;
    stolen_by_nobody(&mut machine)?;
    out_of_reach(&mut machine)?;
    VICTIM.ensure_intact(&mut machine)
}

fn at_rest(context: &Context<'_>) -> Outcome {
    let vms = [VICTIM.manifest(AT_REST), THIEF.manifest(OFF)];
    let mut machine = victim::start(context, "", vms)?;
    VICTIM.ready(&mut machine)?;
    THIEF.ready(&mut machine)?;
    VICTIM.sweep(&mut machine)?;
    in_the_clear(context, &mut machine)?;
    machine.obey("pause victim")?;
    machine.event_of(VICTIM.name, "vm-sealed", 0)?;
    sealed(context, &mut machine)?;
    stolen_by_nobody(&mut machine)?;
    machine.obey("resume victim")?;
    VICTIM.ensure_intact(&mut machine)?;
    VICTIM.sweep(&mut machine)?;
    VICTIM.ensure_intact(&mut machine)
}

/// The same attacks on a VM that nothing protects but page tables.
fn control(context: &Context<'_>) -> Outcome {
    let vms = [VICTIM.manifest(OFF), THIEF.manifest(OFF)];
    let mut machine = victim::start(context, "", vms)?;
    VICTIM.ready(&mut machine)?;
    THIEF.ready(&mut machine)?;
    VICTIM.sweep(&mut machine)?;
    let shown = operator::page(&mut machine, VICTIM.name, PAGE)?;
    machine.ensure(shown == VICTIM.secret(), || {
        "`memory` shows something else than what the guest wrote".to_owned()
    })?;
    let hpa = place(&mut machine)?;
    dumped(context, &machine, Some(hpa))?;
    machine.obey("pause victim")?;
    machine.event_of(VICTIM.name, "vm-pause", 0)?;
    dumped(context, &machine, Some(hpa))?;
    machine.obey("resume victim")?;
    stolen_by_nobody(&mut machine)?;
    VICTIM.ensure_intact(&mut machine)
}

/// What a VM had is nowhere once it has stopped, and its frames are zero when another VM gets them.
fn next(context: &Context<'_>) -> Outcome {
    let vms = [
        VICTIM.manifest(OFF),
        THIEF.manifest(OFF).with("autostart = false"),
        Victim {
            name: "bystander",
            seed: 0x5eed_0003,
        }
        .manifest(WINDOW),
    ];
    let mut machine = victim::start(context, "", vms)?;
    VICTIM.ready(&mut machine)?;
    VICTIM.sweep(&mut machine)?;
    let before = place(&mut machine)?;
    dumped(context, &machine, Some(before))?;
    let swept = operator::look(&mut machine, VICTIM.name, SWEPT, 16)?.hpa();
    machine.obey("stop victim hard")?;
    operator::wait_for(context, &mut machine, (VICTIM.name, PAGE), |answer| {
        *answer == Answer::Nothing
    })?;
    dumped(context, &machine, None)?;
    machine.obey("start thief")?;
    THIEF.ready(&mut machine)?;
    let inherited = operator::look(&mut machine, THIEF.name, SWEPT, 16)?.hpa();
    machine.ensure(swept.is_some() && inherited == swept, || {
        format!("the next VM has {inherited:?} where the one before had {swept:?}")
    })?;
    let scanned = scan(&mut machine)?;
    machine.ensure(
        scanned.ends_with(" 0 foreign words, 0 pages not zero"),
        || format!("the next VM says `{scanned}`"),
    )
}

/// Where the machine has the victim's page.
fn place(machine: &mut Machine<'_>) -> Outcome<Hpa> {
    let answer = operator::look(machine, VICTIM.name, PAGE, 16)?;
    answer
        .hpa()
        .ok_or_else(|| machine.failure(&format!("`memory` answers {answer:?}")))
}

/// The page is readable to its VM: the operator is refused, and a dump has it.
fn in_the_clear(context: &Context<'_>, machine: &mut Machine<'_>) -> Outcome {
    let answer = operator::look(machine, VICTIM.name, PAGE, 16)?;
    machine.ensure(matches!(answer, Answer::Private(_)), || {
        format!("`memory` answers {answer:?}")
    })?;
    dumped(context, machine, answer.hpa())
}

/// The page is sealed: the operator sees that and nothing else, and nothing of it is in a dump.
fn sealed(context: &Context<'_>, machine: &mut Machine<'_>) -> Outcome {
    let answer = operator::look(machine, VICTIM.name, PAGE, 16)?;
    machine.ensure(answer.is_sealed(), || {
        format!("`memory` answers {answer:?}")
    })?;
    let hpa = place(machine)?;
    let shown = operator::page(machine, VICTIM.name, PAGE)?;
    let mut hits = Vec::new();
    VICTIM.strings()?.look(Hpa(0), &shown, &mut hits);
    machine.ensure(hits.is_empty(), || {
        format!("`memory` shows the secret: {hits:?}")
    })?;
    // What the operator is shown is what is there, and not made up.
    let mut there = vec![0; FRAME_SIZE as usize];
    machine.freeze()?.read(hpa, &mut there)?;
    machine.ensure(shown == there, || {
        format!("`memory` shows something else than what is at {hpa}")
    })?;
    dumped(context, machine, None)
}

/// Searches the machine's memory: the whole page is at `expected`, or not one string of it is anywhere.
fn dumped(context: &Context<'_>, machine: &Machine<'_>, expected: Option<Hpa>) -> Outcome {
    let strings = VICTIM.strings()?;
    let begin = Instant::now();
    let (hits, scanned) = machine.freeze()?.find(&strings)?;
    context.note(format!(
        "{} strings of the page in {} MiB of memory, searched in {:.1} s",
        hits.len(),
        scanned.bytes >> 20,
        begin.elapsed().as_secs_f64()
    ));
    let right = match expected {
        None => hits.is_empty(),
        Some(hpa) => hits
            .iter()
            .any(|hit| hit.at == hpa && hit.length == FRAME_SIZE as usize),
    };
    machine.ensure(right, || match expected {
        None => format!("a dump of the machine's memory has the secret: {hits:x?}"),
        Some(hpa) => format!("the secret is not at {hpa}, but: {hits:x?}"),
    })
}

/// The other VM looks through all of its own memory, which is all that it can reach.
fn stolen_by_nobody(machine: &mut Machine<'_>) -> Outcome {
    let scanned = scan(machine)?;
    machine.ensure(scanned.contains(" 0 foreign words"), || {
        format!("the other VM found something: `{scanned}`")
    })
}

/// The other VM names an address of the machine at which the victim has memory: it is one of its own, or none, and none here.
/// There is nothing else to try: no hypercall takes an address (`docs/hypercalls.md`), and what devices are told is theirs to refuse (`devices`).
fn out_of_reach(machine: &mut Machine<'_>) -> Outcome {
    let foreign = operator::look(machine, VICTIM.name, LAST, 16)?.hpa();
    let foreign = foreign.filter(|hpa| hpa.0 >= MEMORY_BYTES).ok_or_else(|| {
        machine.failure("no address of the victim's memory is outside the thief's")
    })?;
    THIEF.tell(machine, &format!("read {foreign}"))?;
    let stop = machine.event_of(THIEF.name, "vm-stop", 0)?;
    machine.ensure(stop.text("reason").contains("the guest read"), || {
        format!("it stopped for another reason: {}", stop.0)
    })
}

fn scan(machine: &mut Machine<'_>) -> Outcome<String> {
    let command = format!("scan {:#x}", VICTIM.seed);
    let line = THIEF.ask(machine, &command, "secret: scanned [^\n]*\n")?;
    Ok(line.trim().to_owned())
}
