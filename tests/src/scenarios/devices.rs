//! Virtio devices as a small driver sees them: disks, network cards, entropy, consoles, and what a request costs.

use std::collections::BTreeMap;

use serde_json::Value;
use xtask::session::events::Event;

use super::faults::image;
use crate::context::{Context, Setup};
use crate::lab::{BENCH, VIRTIO};
use crate::machine::Machine;
use crate::manifest::{Group, Manifest};
use crate::outcome::Outcome;
use crate::scenario::{Ground, Scenario};

const LIMIT: u64 = 300;
const IMAGE: &str = "disk.img";
/// Round trips, and frames that are counted.
const FRAMES: u64 = 500;
/// Requests of the two runs that are compared for what one costs.
const FEW: u64 = 100;
const MANY: u64 = 600;

pub fn scenarios() -> Vec<Scenario> {
    let case =
        |name, check: fn(&Context<'_>) -> Outcome| Scenario::new(name, Ground::Vmx, LIMIT, check);
    vec![
        case("devices_are_found_behind_the_pci_bus", bus),
        case("devices_a_disk_holds_its_image_and_what_is_written", disk),
        case("devices_a_read_only_disk_cannot_be_written", read_only),
        case("devices_the_entropy_source_gives_random_bytes", entropy),
        case("devices_a_virtio_console_says_what_is_typed", console),
        case("devices_frames_go_there_and_back_between_two_vms", frames),
        case("devices_another_segment_hears_nothing", segments),
        case("devices_a_vm_cannot_send_under_anothers_address", forged),
        case("devices_a_block_request_costs_one_exit", exits),
    ]
}

fn guest(name: &'static str, cmdline: &str) -> Manifest {
    Manifest::of(VIRTIO).named(name).with_cmdline(cmdline)
}

fn bus(context: &Context<'_>) -> Outcome {
    let vm = guest("guest", "case=list")
        .with_disk(IMAGE, "")
        .with_nic("lan", "");
    let mut machine = start(context, [vm])?;
    machine.expect("pci: device 0 is [0-9a-f]{4}:[0-9a-f]{4}\n")?;
    finish(&mut machine, "list")?;
    machine.ensure_console(&["is 1af4:10"])?;
    let console = machine.console();
    for kind in ["1af4:1041", "1af4:1042", "1af4:1044"] {
        machine.ensure(console.contains(kind), || format!("there is no {kind}"))?;
    }
    Ok(())
}

/// Twice: what was written is gone when the VM starts anew.
fn disk(context: &Context<'_>) -> Outcome {
    let vm = guest("guest", "case=block")
        .with_disk(IMAGE, "overlay = \"2M\"")
        .restarting("always");
    let mut machine = start(context, [vm])?;
    for life in 0..2 {
        let line = machine.expect("block: 1024 sectors, [0-9]+ requests, [0-9]+ interrupts\n")?;
        context.note(line.trim().to_owned());
        machine.expect("case block: ok\n")?;
        machine.event_of("guest", "vm-restart", life)?;
    }
    Ok(())
}

fn read_only(context: &Context<'_>) -> Outcome {
    let vm = guest("guest", "case=block-read-only").with_disk(IMAGE, "mode = \"read-only\"");
    finish(&mut start(context, [vm])?, "block-read-only")
}

fn entropy(context: &Context<'_>) -> Outcome {
    finish(&mut start(context, [guest("guest", "case=rng")])?, "rng")
}

fn console(context: &Context<'_>) -> Outcome {
    let vm = guest("guest", "case=console").with("console = \"virtio\"");
    let mut machine = start(context, [vm])?;
    machine.expect("virtio console: type a line, an empty one ends\n")?;
    machine.type_line("hello there")?;
    machine.type_line("")?;
    machine.off()?;
    machine.ensure_console(&["an empty one ends", "hello there"])?;
    machine.ensure_events(&["vm-start", "vm-stop", "machine-off"])
}

fn frames(context: &Context<'_>) -> Outcome {
    let mut machine = start(
        context,
        [
            guest("pong", "case=net role=pong").with_nic("lan", ""),
            guest(
                "ping",
                &format!("case=net role=ping count={FRAMES} length=1000"),
            )
            .with("autostart = false")
            .with_nic("lan", ""),
        ],
    )?;
    // What is sent to a card that its guest has not set up is lost: nobody sends before.
    machine.expect("net: address [0-9a-f:]{17}\n")?;
    machine.obey("start ping")?;
    machine.switch("ping")?;
    let line = machine.expect(&format!("net: {FRAMES} round trips, [0-9]+ ticks each\n"))?;
    context.note(line.trim().to_owned());
    machine.expect("case net: ok\n")?;
    machine.off()?;
    for vm in ["ping", "pong"] {
        let nic = machine.event_of(vm, "nic", 0)?;
        machine.ensure(
            nic.number("sent_frames") > Some(FRAMES)
                && nic.0.get("drops") == Some(&Value::Object(Default::default())),
            || format!("frames were lost: {}", nic.0),
        )?;
    }
    Ok(())
}

/// Two that talk, and one elsewhere that listens.
fn segments(context: &Context<'_>) -> Outcome {
    let mut machine = start(
        context,
        [
            guest("listener", "case=net role=listen ticks=1000000000").with_nic("island", ""),
            guest("ping", &format!("case=net role=ping count={FRAMES}")).with_nic("lan", ""),
            guest("pong", "case=net role=pong").with_nic("lan", ""),
        ],
    )?;
    machine.expect("net: heard 0 frames, 0 forged\n")?;
    machine.off()?;
    let talk = machine.event_of("pong", "nic", 0)?;
    machine.ensure(talk.number("sent_frames") > Some(FRAMES), || {
        format!("the others did not talk: {}", talk.0)
    })?;
    let nic = machine.event_of("listener", "nic", 0)?;
    machine.ensure(nic.number("received_frames") == Some(0), || {
        format!("it received something: {}", nic.0)
    })
}

/// Frames under another address are dropped and counted; where the manifest allows them they arrive.
fn forged(context: &Context<'_>) -> Outcome {
    for (spoofing, arrive) in [("deny", false), ("allow", true)] {
        let listener = guest("listener", "case=net role=listen ticks=1500000000");
        let forger = guest("forger", "case=net role=forge count=10").with("autostart = false");
        let group = [
            listener.with_nic("lan", ""),
            forger.with_nic("lan", &format!("spoofing = \"{spoofing}\"")),
        ];
        let mut machine = start_part(context, spoofing, group)?;
        machine.expect("net: listening\n")?;
        machine.obey("start forger")?;
        machine.switch("listener")?;
        let expected = if arrive { 10 } else { 0 };
        machine.expect(&format!(
            "net: heard {expected} frames, {expected} forged\n"
        ))?;
        machine.off()?;
        let nic = machine.event_of("forger", "nic", 0)?;
        let dropped = nic.0.pointer("/drops/spoofed").and_then(Value::as_u64);
        machine.ensure(dropped.unwrap_or(0) == 10 - expected, || {
            format!("the drops are not counted: {}", nic.0)
        })?;
    }
    Ok(())
}

/// What a request adds to the VM's exits: the kick, and nothing for its interrupt where the processor delivers it.
fn exits(context: &Context<'_>) -> Outcome {
    let mut exits = Vec::new();
    for (part, count) in [("few", FEW), ("many", MANY)] {
        let vm = Manifest::of(BENCH)
            .with_cmdline(format!("rows=block count={count}"))
            .with_disk(IMAGE, "");
        let mut machine = start_part(context, part, [vm])?;
        let line = machine.expect("bench virtio-block [0-9 ]+\n")?;
        context.note(line.trim().to_owned());
        finish(&mut machine, "bench")?;
        let counters = machine.event_of("guest", "counters", 0)?;
        exits.push(own_exits(&counters));
    }
    let grown: BTreeMap<_, _> = exits[1]
        .iter()
        .map(|(reason, many)| (reason, many - exits[0].get(reason).unwrap_or(&0)))
        .filter(|(_, grown)| *grown > 0)
        .collect();
    context.note(format!("{} more requests: {grown:?}", MANY - FEW));
    let all: i64 = grown.values().sum();
    // The lines that are printed differ by a character or two.
    crate::outcome::ensure(all <= (MANY - FEW) as i64 + 20, || {
        format!("{} requests took {grown:?}", MANY - FEW)
    })
}

/// Exits by reason, without those that come with time.
fn own_exits(counters: &Event) -> BTreeMap<String, i64> {
    let exits = counters.0.get("exits").and_then(Value::as_object);
    exits
        .into_iter()
        .flatten()
        .filter(|(reason, _)| reason.as_str() != "preemption-timer")
        .map(|(reason, count)| (reason.clone(), count.as_i64().unwrap_or(0)))
        .collect()
}

fn finish(machine: &mut Machine<'_>, case: &str) -> Outcome {
    let verdict = machine.expect("case \\S+: (?:ok|FAIL.*)\n")?;
    machine.ensure(verdict == format!("case {case}: ok\n"), || {
        format!("the guest says `{}`", verdict.trim())
    })?;
    machine.off()?;
    Ok(())
}

fn start<'a>(context: &'a Context<'a>, vms: impl Into<Vec<Manifest>>) -> Outcome<Machine<'a>> {
    start_part(context, "", vms)
}

fn start_part<'a>(
    context: &'a Context<'a>,
    part: &'static str,
    vms: impl Into<Vec<Manifest>>,
) -> Outcome<Machine<'a>> {
    context.file(IMAGE, image())?;
    let setup = Setup {
        part,
        ..Setup::default()
    };
    context.start(context.boot_group(&Group::of(vms))?, setup)
}
