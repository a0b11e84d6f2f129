//! Where a VM's memory comes from when it starts and goes when it has ended.
//!
//! The guest `memory` says how much of its RAM is not zero, before and after it has filled it with a secret.

use serde_json::Value;
use xtask::session::events::Event;

use super::faults::image;
use crate::context::{Context, Setup};
use crate::lab::MEMORY;
use crate::machine::Machine;
use crate::manifest::{Group, Manifest};
use crate::outcome::Outcome;
use crate::scenario::{Ground, Scenario};

const LIMIT: u64 = 300;
const IMAGE: &str = "disk.img";
/// Frames of 32 MiB of RAM, and of an overlay of 2 MiB.
const RAM_FRAMES: u64 = 8192;
const OVERLAY_FRAMES: u64 = 512;

pub fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new(
        "life_frames_of_a_vm_that_ended_are_zero_for_the_next",
        Ground::Vmx,
        LIMIT,
        from_one_to_the_next,
    )]
}

/// Two lives of one VM, which leaves a secret in all of its memory, then another VM in the same frames.
fn from_one_to_the_next(context: &Context<'_>) -> Outcome {
    context.file(IMAGE, image())?;
    let first = Manifest::of(MEMORY)
        .named("first")
        .with_cmdline("fill=1")
        .with_disk(IMAGE, "overlay = \"2M\"");
    let second = Manifest::of(MEMORY)
        .named("second")
        .with_cmdline("then=wait")
        .with("autostart = false");
    let boot = context.boot_group(&Group::of([first, second]))?;
    let mut machine = context.start(boot, Setup::default())?;

    let books = one_life(&mut machine, 0)?;
    machine.obey("start first")?;
    machine.switch("first")?;
    let again = one_life(&mut machine, 1)?;
    for key in ["frames", "owners", "pool_frames"] {
        machine.ensure(books.0.get(key) == again.0.get(key), || {
            format!("{key} is not what it was: {} and {}", books.0, again.0)
        })?;
    }
    // Nothing else of this machine was ever zeroed.
    let given_back = RAM_FRAMES + OVERLAY_FRAMES;
    machine.ensure(count(&again, "/frames/free") == given_back, || {
        format!("other frames than the VM's are free: {}", again.0)
    })?;

    machine.obey("start second")?;
    machine.switch("second")?;
    untouched(&mut machine)?;
    let running = machine.books()?;
    let has_them = count(&running, "/frames/free") == given_back - RAM_FRAMES
        && count(&running, "/frames/dirty") == count(&again, "/frames/dirty");
    machine.ensure(
        has_them && count(&running, "/owners/vm") == RAM_FRAMES,
        || format!("the second VM has other frames: {}, {}", again.0, running.0),
    )?;
    machine.obey("stop second hard")?;
    destroyed(&mut machine, "second", 0, RAM_FRAMES)?;
    machine.ensure_events(&["vm-start", "vm-stop", "counters", "vm-destroyed", "machine"])
}

/// Waits until the first VM has looked at its memory, filled it and ended; the books afterwards.
fn one_life(machine: &mut Machine<'_>, life: usize) -> Outcome<Event> {
    let bytes = untouched(machine)?;
    machine.expect(&format!(
        "memory: {bytes} bytes, {bytes} of them not zero\n"
    ))?;
    let frames = RAM_FRAMES + OVERLAY_FRAMES;
    let books = destroyed(machine, "first", life, frames)?;
    // `stats` has the counters told, too: those of the run come right before its memory is given back.
    let events = machine.events();
    let end = events
        .iter()
        .rposition(|event| event.name() == "vm-destroyed");
    let mut run = events.iter().take(end.unwrap_or(0)).rev();
    let counters = run.find(|event| event.name() == "counters");
    let has_them = counters.is_some_and(|event| count(event, "/frames/clear") == frames);
    machine.ensure(has_them, || {
        format!("its counters say other frames: {counters:?}")
    })?;
    Ok(books)
}

/// Waits for what a VM says of memory that nobody used; how many bytes that are.
fn untouched(machine: &mut Machine<'_>) -> Outcome<u64> {
    let line = machine.expect("memory: [0-9]+ bytes, [0-9]+ of them not zero\n")?;
    let numbers: Vec<u64> = line
        .split([' ', ','])
        .filter_map(|word| word.parse().ok())
        .collect();
    match numbers[..] {
        // All of its RAM but the first 640 KiB's part for the loader, and its image.
        [bytes, 0] if bytes > (RAM_FRAMES - 512) * 4096 => Ok(bytes),
        _ => Err(machine.failure(&format!("it found something in its memory: {line}"))),
    }
}

/// Waits until `vm` gave its memory back: `frames`, all of them zeroed; the books afterwards.
fn destroyed(machine: &mut Machine<'_>, vm: &str, life: usize, frames: u64) -> Outcome<Event> {
    let event = machine.event_of(vm, "vm-destroyed", life)?;
    let all = [event.number("freed"), event.number("scrubbed")] == [Some(frames); 2];
    machine.ensure(all, || format!("not {frames} frames: {}", event.0))?;
    let books = machine.books()?;
    let balanced = books.0.get("balanced") == Some(&Value::Bool(true));
    machine.ensure(balanced && count(&books, "/owners/vm") == 0, || {
        format!("frames are with a VM that has ended: {}", books.0)
    })?;
    Ok(books)
}

/// A number of an event; 0 where it is left out.
fn count(event: &Event, pointer: &str) -> u64 {
    event
        .0
        .pointer(pointer)
        .and_then(Value::as_u64)
        .unwrap_or(0)
}
