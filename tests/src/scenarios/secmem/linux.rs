//! A Linux that has a sixteenth of its memory at a time, tests all of it, and notices nothing.

use std::fs;

use serde_json::Value;
use xtask::error::IoContext;
use xtask::session::events::Event;

use crate::context::{Context, Setup};
use crate::machine::Machine;
use crate::outcome::{Failure, Outcome};
use crate::scenario::{Ground, Scenario};
use crate::scenarios::linux::{DEMO, DEMO_KERNEL, PROMPT};

const LIMIT: u64 = 3600;
const VM: &str = "demo";
/// How many exits are looked at.
const SAMPLES: usize = 1000;
/// Of the pages that were ever used, the part that is sealed at each of them, at least, in percent.
const SEALED_PERCENT: u64 = 90;
/// A kernel that has a memory test built in, which the demo's has not.
const KERNEL: &str = "vmlinuz-6.1";
/// A file of so many MiB, and a copy of it: several times the window.
const FILE_MIB: u64 = 40;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "secmem_linux_with_a_window_of_16_mib_is_sealed_but_for_it",
            Ground::Bochs,
            LIMIT,
            window,
        )
        .with_payloads(&[KERNEL, "initrd-busybox.img"])
        .only_when_long(),
    ]
}

fn window(context: &Context<'_>) -> Outcome {
    let path = context.lab.workspace.root().join(DEMO);
    let demo = fs::read_to_string(&path).context("read", &path)?;
    let mut machine = context.start(context.boot(&manifest(&demo)?)?, Setup::default())?;
    machine.expect("early_memtest: # of tests: 1")?;
    machine.expect(PROMPT)?;
    checksums(context, &mut machine)?;
    machine.send("dmesg | grep -cE 'BUG|WARNING|Call Trace|bad mem'")?;
    let complaints = machine.expect(r"\n\d+\n")?;
    machine.ensure(complaints.trim() == "0", || {
        format!("the kernel complains {} times", complaints.trim())
    })?;
    machine.send("poweroff -f")?;
    machine.off()?;
    samples(context, &mut machine)
}

/// The demo with a window, and a kernel that is told to test its memory.
fn manifest(demo: &str) -> Outcome<String> {
    const CMDLINE: &str = "cmdline = \"console=ttyS0";
    let kernel = demo.replacen(DEMO_KERNEL, KERNEL, 1);
    let tested = kernel.replacen(CMDLINE, &format!("{CMDLINE} memtest=1"), 1);
    if tested == kernel || kernel == demo {
        return Err(Failure::Unmet(
            "the demo has another kernel or command line".to_owned(),
        ));
    }
    Ok(format!(
        "{tested}\nencryption = \"window\"\nwindow = \"16M\"\nwindow_samples = {SAMPLES}\n"
    ))
}

/// What nobody can know is the same in two places, and each time it is looked at; so is the shell's own program.
fn checksums(context: &Context<'_>, machine: &mut Machine<'_>) -> Outcome {
    machine.send(&format!(
        "dd if=/dev/urandom of=/one bs=1M count={FILE_MIB} && cp /one /two"
    ))?;
    machine.expect(&format!("{FILE_MIB}\\+0 records out\n"))?;
    let (first, second) = (
        digests(machine, "sha256sum /one /two", 64)?,
        digests(machine, "sha256sum /one /two", 64)?,
    );
    let same = first
        .iter()
        .chain(&second)
        .all(|digest| *digest == first[0]);
    machine.ensure(same, || format!("{first:?}, then {second:?}"))?;
    let program = "md5sum /bin/busybox /bin/busybox";
    let (first, second) = (
        digests(machine, program, 32)?,
        digests(machine, program, 32)?,
    );
    context.note(format!(
        "2 x {FILE_MIB} MiB twice, and busybox: {}",
        first[0]
    ));
    machine.ensure(first == second && first[0] == first[1], || {
        format!("{first:?}, then {second:?}")
    })
}

/// The two digests that `question` is answered with.
fn digests(machine: &mut Machine<'_>, question: &str, length: usize) -> Outcome<[String; 2]> {
    machine.send(question)?;
    let mut digest = || -> Outcome<String> {
        let line = machine.expect(&format!("\n?[0-9a-f]{{{length}}}  /"))?;
        Ok(line.trim_matches(['\n', ' ', '/']).to_owned())
    };
    Ok([digest()?, digest()?])
}

/// At each sampled exit nearly all that the guest ever used was sealed, and what was looked at was.
fn samples(context: &Context<'_>, machine: &mut Machine<'_>) -> Outcome {
    let samples: Vec<Event> = machine
        .events()
        .into_iter()
        .filter(|event| event.name() == "secmem-sample" && event.text("vm") == VM)
        .collect();
    machine.ensure(samples.len() == SAMPLES, || {
        format!("{} of {SAMPLES} samples", samples.len())
    })?;
    let mut least = 100;
    for sample in &samples {
        let number = |key: &str| sample.0.get(key).and_then(Value::as_u64);
        let [Some(touched @ 1..), Some(sealed), Some(1..), Some(0)] =
            ["touched", "sealed", "verified", "failed"].map(number)
        else {
            return Err(machine.failure(&format!("a sample failed: {}", sample.0)));
        };
        least = least.min(sealed * 100 / touched);
    }
    context.note(format!(
        "at each of {SAMPLES} exits at least {least} % of the pages ever used were sealed"
    ));
    machine.ensure(least >= SEALED_PERCENT, || {
        format!("only {least} % were sealed at one of the samples")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_with_a_window_is_a_manifest() {
        let text = manifest(include_str!("../../../../docs/examples/demo.toml")).unwrap();
        assert!(text.contains("cmdline = \"console=ttyS0 memtest=1\""));
        assert!(bulkhead_core::manifest::parse("demo.toml", &text).is_ok());
    }
}
