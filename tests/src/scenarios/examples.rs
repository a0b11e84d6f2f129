//! The examples in `docs/examples` with more than a demo to show, started as they are and used as an operator would.

use crate::context::{Context, Setup};
use crate::machine::Machine;
use crate::outcome::Outcome;
use crate::scenario::{Ground, Scenario};

use super::linux::{DEMO_KERNEL, PROMPT};

/// Seconds for a boot and what is done after it, on a busy machine.
const LIMIT: u64 = 600;
const INITRD: &str = "initrd-virtio.img";

const TWO_DEBIANS: &str = "docs/examples/two-debians.toml";
/// What goes from one Debian to the other.
const FILE_BYTES: u64 = 1 << 20;
/// The most that one frame between them carries.
const FRAME_BYTES: u64 = 1514;

const USERLAND: &str = "docs/examples/debian-userland.toml";
const USERLAND_VM: &str = "debian";

pub fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "examples_debian_userland_boots_to_its_login_prompt",
            Ground::Vmx,
            LIMIT,
            userland,
        )
        .with_payloads(&[DEMO_KERNEL, INITRD, "debian-12.img"]),
        Scenario::new(
            "examples_two_debians_talk_and_the_third_hears_nothing",
            Ground::Vmx,
            LIMIT,
            two_debians,
        )
        .with_payloads(&[DEMO_KERNEL, INITRD]),
    ]
}

/// To `login:`, through it, and down again.
fn userland(context: &Context<'_>) -> Outcome {
    let mut machine = start(context, USERLAND, 1, 2048)?;
    machine.expect("bulkhead login: ")?;
    let start = machine.event_of(USERLAND_VM, "vm-start", 0)?;
    let now = machine.counters(USERLAND_VM)?;
    let ticks = now.number("t").zip(start.number("t"));
    let ticks = ticks.map_or(0, |(now, start)| now.saturating_sub(start));
    context.note(format!(
        "{ticks} ticks from the VM's start to its login prompt"
    ));
    machine.ensure(ticks > 1_000_000_000, || {
        format!("systemd was up after {ticks} ticks?")
    })?;
    machine.switch(USERLAND_VM)?;
    machine.type_line("root")?;
    machine.expect("root@bulkhead:~# ")?;
    // The prompt comes before the last unit is up: wait for that.
    let state = ask(&mut machine, "systemctl is-system-running --wait", "[a-z]+")?;
    if state != "running" {
        machine.type_line("systemctl --failed --no-pager --plain; systemctl list-jobs")?;
        machine.expect("root@bulkhead:~# ")?;
    }
    machine.ensure(state == "running", || format!("the system is {state}"))?;
    machine.type_line("poweroff")?;
    machine.off()?;
    let stop = machine.event_of(USERLAND_VM, "vm-stop", 0)?;
    machine.ensure(stop.text("reason").contains("powered off"), || {
        format!("it stopped for another reason: {}", stop.0)
    })?;
    machine.ensure_events(&["vm-start", "vm-stop", "counters", "machine-off"])
}

fn two_debians(context: &Context<'_>) -> Outcome {
    let mut machine = start(context, TWO_DEBIANS, 2, 1024)?;
    machine.expect(PROMPT)?;
    has_two_vcpus(&mut machine)?;
    machine.switch("alone")?;
    let address = machine.expect("net: address [0-9a-f:]{17}\n")?;
    let address = address.trim().rsplit(' ').next().unwrap_or_default();
    machine.expect("net: listening\n")?;
    machine.switch("right")?;
    machine.expect(PROMPT)?;
    has_two_vcpus(&mut machine)?;

    machine.switch("left")?;
    reaches(&mut machine, "10.0.0.2", 3)?;
    transfer(context, &mut machine)?;
    cannot_reach(&mut machine, address)?;
    machine.switch("right")?;
    cannot_reach(&mut machine, address)?;

    machine.type_line("poweroff -f")?;
    machine.event_of("right", "vm-stop", 0)?;
    machine.switch("left")?;
    machine.type_line("poweroff -f")?;
    machine.event_of("left", "vm-stop", 0)?;
    machine.obey("stop alone hard")?;
    check_traffic(context, &mut machine)
}

fn has_two_vcpus(machine: &mut Machine<'_>) -> Outcome {
    let count = ask(machine, "nproc", "[0-9]+")?;
    machine.ensure(count == "2", || format!("nproc says {count}"))
}

/// A mebibyte that nobody can guess goes from the left to the right, and is the same there.
fn transfer(context: &Context<'_>, machine: &mut Machine<'_>) -> Outcome {
    const DIGEST: &str = "[0-9a-f]{64}";
    let blocks = FILE_BYTES / 1024;
    machine.switch("right")?;
    // An end of what it could send would end the transfer.
    machine.type_line("tail -f /dev/null | nc -l -p 5000 > /tmp/file &")?;
    machine.expect(PROMPT)?;
    machine.switch("left")?;
    machine.type_line(&format!(
        "dd if=/dev/urandom of=/tmp/file bs=1024 count={blocks} && nc 10.0.0.2 5000 < /tmp/file"
    ))?;
    machine.expect(&format!("{blocks}\\+0 records out\n"))?;
    machine.expect(PROMPT)?;
    let sent = ask(machine, "sha256sum /tmp/file", DIGEST)?;
    machine.switch("right")?;
    let arrived = ask(machine, "wc -c < /tmp/file", "[0-9]+")?;
    machine.ensure(arrived == FILE_BYTES.to_string(), || {
        format!("{arrived} of {FILE_BYTES} bytes arrived")
    })?;
    let received = ask(machine, "sha256sum /tmp/file", DIGEST)?;
    context.note(format!("{FILE_BYTES} bytes with SHA-256 {received}"));
    machine.ensure(sent == received, || {
        format!("{sent} was sent, {received} arrived")
    })?;
    machine.switch("left")
}

fn reaches(machine: &mut Machine<'_>, address: &str, times: u32) -> Outcome {
    machine.type_line(&format!("ping -c {times} {address}"))?;
    machine.expect(&format!(
        "{times} packets transmitted, {times} packets received, 0% packet loss\n"
    ))?;
    Ok(())
}

/// The guest on the other segment answers neither a question to everybody nor frames to its own address.
fn cannot_reach(machine: &mut Machine<'_>, address: &str) -> Outcome {
    machine.type_line("arping -c 3 -I eth0 10.0.0.3")?;
    machine.expect("Received 0 (?:response|repl)")?;
    machine.type_line(&format!(
        "arp -s 10.0.0.3 {address} && ping -c 2 -W 1 10.0.0.3"
    ))?;
    machine.expect("2 packets transmitted, 0 packets received, 100% packet loss\n")?;
    Ok(())
}

/// The NICs' own books: the two heard each other, the third heard nothing.
fn check_traffic(context: &Context<'_>, machine: &mut Machine<'_>) -> Outcome {
    let received = |machine: &mut Machine<'_>, vm| -> Outcome<u64> {
        let nic = machine.event_of(vm, "nic", 0)?;
        context.note(format!("{vm}: {}", nic.0));
        nic.number("received_frames")
            .ok_or_else(|| machine.failure("a `nic` event without `received_frames`"))
    };
    let [left, right, alone] = [
        received(machine, "left")?,
        received(machine, "right")?,
        received(machine, "alone")?,
    ];
    machine.ensure(right > FILE_BYTES / FRAME_BYTES && left > 0, || {
        format!("left received {left} frames and right {right}")
    })?;
    machine.ensure(alone == 0, || format!("the third received {alone} frames"))
}

/// Types `question` at the shell; the first line of the answer, which has to be `answer`, a pattern.
fn ask(machine: &mut Machine<'_>, question: &str, answer: &str) -> Outcome<String> {
    machine.type_line(question)?;
    let line = machine.expect(&format!("\n{answer}(?:\n|  )"))?;
    Ok(line.trim().to_owned())
}

fn start<'a>(
    context: &'a Context<'a>,
    example: &str,
    cpus: u32,
    memory_mib: u64,
) -> Outcome<Machine<'a>> {
    let path = context.lab.workspace.root().join(example);
    let setup = Setup {
        cpus,
        memory_mib,
        ..Setup::default()
    };
    context.start(context.boot_manifest(&path)?, setup)
}
