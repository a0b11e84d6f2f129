//! The smallest guest, by each way into it, and each way out of it.

use std::fs;

use xtask::error::IoContext;

use crate::context::{Context, Setup};
use crate::forge;
use crate::lab::HELLO;
use crate::manifest::Manifest;
use crate::outcome::Outcome;
use crate::scenario::{Ground, Scenario};

const LIMIT: u64 = 180;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("elf_guest_starts_by_pvh", Ground::Vmx, LIMIT, elf),
        Scenario::new("flat_guest_starts_at_1_mib", Ground::Vmx, LIMIT, flat),
        Scenario::new(
            "guest_that_resets_is_started_again",
            Ground::Vmx,
            LIMIT,
            reset,
        ),
        Scenario::new(
            "guest_that_never_restarts_ends_the_machine_when_it_resets",
            Ground::Vmx,
            LIMIT,
            reset_without_restart,
        ),
    ]
}

fn elf(context: &Context<'_>) -> Outcome {
    greets(context, Manifest::of(HELLO).with_cmdline("name=elf"), "elf")
}

fn flat(context: &Context<'_>) -> Outcome {
    let elf = context.lab.payload(HELLO)?;
    let image = forge::flat_image(&fs::read(&elf).context("read", &elf)?)?;
    context.file("hello.bin", image)?;
    let manifest = Manifest::of("hello.bin")
        .with_kernel_keys("format = \"flat\"")
        .with_cmdline("name=flat");
    greets(context, manifest, "flat")
}

fn greets(context: &Context<'_>, manifest: Manifest, name: &str) -> Outcome {
    let boot = context.boot_guest(&manifest)?;
    let mut machine = context.start(boot, Setup::default())?;
    machine.expect(&format!("hello from a guest named {name}\n"))?;
    machine.expect("case hello: ok\nall cases done\n")?;
    machine.off()?;
    machine.ensure_events(&[
        "boot",
        "plan",
        "memory",
        "vm-start",
        "vm-stop",
        "counters",
        "machine-off",
    ])
}

fn reset(context: &Context<'_>) -> Outcome {
    let mut manifest = Manifest::of(HELLO).with_cmdline("name=phoenix then=reset");
    manifest.restart = "always";
    let boot = context.boot_guest(&manifest)?;
    let mut machine = context.start(boot, Setup::default())?;
    for life in 0..3 {
        machine.expect("hello from a guest named phoenix\n")?;
        let restart = machine.event("vm-restart", life)?;
        machine.ensure(restart.number("count") == Some(life as u64 + 1), || {
            format!("restart {} is counted otherwise: {}", life + 1, restart.0)
        })?;
    }
    machine.ensure_events(&["vm-start", "vm-stop", "counters", "vm-restart", "vm-start"])
}

fn reset_without_restart(context: &Context<'_>) -> Outcome {
    let manifest = Manifest::of(HELLO).with_cmdline("name=mayfly then=reset");
    let boot = context.boot_guest(&manifest)?;
    let mut machine = context.start(boot, Setup::default())?;
    machine.expect("hello from a guest named mayfly\n")?;
    machine.off()?;
    let starts = machine
        .events()
        .iter()
        .filter(|event| event.name() == "vm-start")
        .count();
    machine.ensure(starts == 1, || format!("the VM started {starts} times"))
}
