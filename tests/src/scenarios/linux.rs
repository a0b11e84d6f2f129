//! Debian's own kernels, unchanged, to a shell and back: what Bulkhead is for.

use std::fs;

use regex::Regex;
use xtask::error::IoContext;
use xtask::session::events::Event;

use crate::context::{Context, Setup};
use crate::forge;
use crate::machine::Machine;
use crate::outcome::{Failure, Outcome};
use crate::scenario::{Ground, Scenario};

/// The prompt of the demo's shell.
pub const PROMPT: &str = "~ # ";
/// What the shell is asked, and answers with the kernel's release, 0 and 1.
pub const QUESTION: &str =
    "uname -r; dmesg | grep -cE 'BUG|WARNING|Call Trace'; grep -c hypervisor /proc/cpuinfo";
/// What `cargo xtask run` boots.
pub const DEMO: &str = "docs/examples/demo.toml";
/// The demo's kernel.
pub const DEMO_KERNEL: &str = "vmlinuz-6.1-cloud";
/// What the demo boots.
pub const DEMO_PAYLOADS: &[&str] = &[DEMO_KERNEL, "initrd-busybox.img"];

/// Seconds for one boot to the shell, a few commands and the end, on a busy machine.
const LIMIT: u64 = 600;
/// The most of a boot that may be spent in the hypervisor, in percent.
const ROOT_SHARE_LIMIT: f64 = 2.0;
/// What the hypervisor may keep: so much and a 200th of the machine's memory.
const KEPT_BASE: u64 = 16 << 20;
const KEPT_DIVISOR: u64 = 200;
/// The machine that `cargo xtask run` starts.
const MEMORY_MIB: u64 = 2048;

/// A kernel and the manifest in `docs/examples` that boots it.
struct Kernel {
    name: &'static str,
    manifest: &'static str,
    payload: &'static str,
    payloads: &'static [&'static str],
}

const OTHERS: [Kernel; 3] = [
    Kernel {
        name: "6_1_generic",
        manifest: "docs/examples/debian-6.1-generic.toml",
        payload: "vmlinuz-6.1",
        payloads: &["vmlinuz-6.1", "initrd-busybox.img"],
    },
    Kernel {
        name: "6_12_cloud",
        manifest: "docs/examples/debian-6.12.toml",
        payload: "vmlinuz-6.12-cloud",
        payloads: &["vmlinuz-6.12-cloud", "initrd-busybox.img"],
    },
    Kernel {
        name: "6_12_generic",
        manifest: "docs/examples/debian-6.12-generic.toml",
        payload: "vmlinuz-6.12",
        payloads: &["vmlinuz-6.12", "initrd-busybox.img"],
    },
];

pub fn scenarios() -> Vec<Scenario> {
    let mut scenarios = vec![
        Scenario::new(
            "linux_6_1_cloud_boots_reboots_and_powers_off_within_its_bounds",
            Ground::Bochs,
            2 * LIMIT,
            demo,
        )
        .with_payloads(DEMO_PAYLOADS),
    ];
    for kernel in OTHERS {
        let name = format!("linux_{}_boots_to_a_shell_and_powers_off", kernel.name);
        scenarios.push(
            Scenario::new(name, Ground::Vmx, LIMIT, move |context| {
                boot_to_power_off(context, kernel.manifest, kernel.payload)
            })
            .with_payloads(kernel.payloads),
        );
    }
    scenarios.push(
        Scenario::new(
            "linux_boots_on_the_software_apic_too",
            Ground::Vmx,
            LIMIT,
            without_apicv,
        )
        .with_payloads(DEMO_PAYLOADS),
    );
    scenarios
}

/// One boot, one reboot, the power-off; then what they cost.
fn demo(context: &Context<'_>) -> Outcome {
    let path = context.lab.workspace.root().join(DEMO);
    let mut machine = start(context, context.boot_manifest(&path)?)?;
    machine.expect(PROMPT)?;
    check_boot_log(&machine)?;
    check_shell(context, &mut machine, DEMO_KERNEL)?;
    machine.send("reboot -f")?;
    machine.expect("Linux version")?;
    machine.expect(PROMPT)?;
    check_shell(context, &mut machine, DEMO_KERNEL)?;
    power_off(&mut machine)?;
    machine.ensure_events(&[
        "boot",
        "plan",
        "memory",
        "vm-start",
        "vm-stop",
        "counters",
        "vm-restart",
        "vm-start",
        "vm-stop",
        "counters",
        "machine-off",
    ])?;
    check_memory(context, &mut machine)?;
    check_root_share(context, &mut machine)
}

fn boot_to_power_off(context: &Context<'_>, manifest: &str, kernel: &str) -> Outcome {
    let path = context.lab.workspace.root().join(manifest);
    let mut machine = start(context, context.boot_manifest(&path)?)?;
    machine.expect(PROMPT)?;
    check_boot_log(&machine)?;
    check_shell(context, &mut machine, kernel)?;
    power_off(&mut machine)?;
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

fn without_apicv(context: &Context<'_>) -> Outcome {
    let path = context.lab.workspace.root().join(DEMO);
    let demo = fs::read_to_string(&path).context("read", &path)?;
    let text = format!("{demo}\n[hypervisor]\napicv = \"off\"\n");
    let mut machine = start(context, context.boot(&text)?)?;
    machine.expect(PROMPT)?;
    machine.ensure_console(&["without APIC virtualisation", "Linux version 6."])?;
    check_shell(context, &mut machine, DEMO_KERNEL)?;
    power_off(&mut machine)?;
    machine.ensure_events(&["vm-start", "vm-stop", "counters", "machine-off"])
}

fn start<'a>(context: &'a Context<'a>, boot: xtask::image::Boot) -> Outcome<Machine<'a>> {
    let setup = Setup {
        memory_mib: MEMORY_MIB,
        ..Setup::default()
    };
    context.start(boot, setup)
}

/// Banner and plan come before the kernel's own log.
fn check_boot_log(machine: &Machine<'_>) -> Outcome {
    machine.ensure_console(&["Bulkhead ", "plan", "Linux version 6."])
}

/// The kernel is the one that was asked for, has nothing to complain about, and knows that it is a guest.
fn check_shell(context: &Context<'_>, machine: &mut Machine<'_>, kernel: &str) -> Outcome {
    let place = context.lab.payload(kernel)?;
    let image = fs::read(&place).context("read", &place)?;
    let release = forge::kernel_release(&image)
        .ok_or_else(|| Failure::Unmet(format!("{kernel} names no version")))?;
    machine.send(QUESTION)?;
    let answer = machine.expect(r"(?m)^\S+\n\d+\n\d+\n")?;
    let expected = format!("{release}\n0\n1\n");
    machine.ensure(answer == expected, || {
        format!("the shell answered {answer:?}, not {expected:?}")
    })
}

fn power_off(machine: &mut Machine<'_>) -> Outcome {
    machine.send("poweroff -f")?;
    machine.off()?;
    Ok(())
}

fn check_memory(context: &Context<'_>, machine: &mut Machine<'_>) -> Outcome {
    let memory = machine.event("memory", 0)?;
    let (kept, ram) = (
        number(machine, &memory, "total_bytes")?,
        number(machine, &memory, "ram_bytes")?,
    );
    let allowed = KEPT_BASE + ram / KEPT_DIVISOR;
    context.note(format!(
        "the hypervisor keeps {kept} of {ram} bytes (at most {allowed})"
    ));
    machine.ensure(ram > MEMORY_MIB << 19, || {
        format!("the machine has {ram} bytes of memory?")
    })?;
    machine.ensure(kept <= allowed, || {
        format!("the hypervisor keeps {kept} bytes, more than {allowed}")
    })?;
    let line = Regex::new(r"(?m)^bulkhead: .*(?:kept|keeps).*$")
        .map_err(|error| Failure::Unmet(error.to_string()))?;
    machine.ensure(line.is_match(&machine.console()), || {
        "the log does not say what the hypervisor keeps".to_owned()
    })
}

/// The first boot's counters: what the hypervisor took of it.
fn check_root_share(context: &Context<'_>, machine: &mut Machine<'_>) -> Outcome {
    let counters = machine.event("counters", 0)?;
    let guest = number(machine, &counters, "guest_ticks")?;
    let root = number(machine, &counters, "root_ticks")?;
    let idle = number(machine, &counters, "idle_ticks")?;
    let of_all = percent(root, guest + root + idle);
    let of_busy = percent(root, guest + root);
    context.note(format!(
        "root mode: {of_all:.2} % of all ticks, {of_busy:.2} % of those not idle ({root} of {guest} + {root} + {idle})"
    ));
    machine.ensure(guest > 100_000_000, || {
        format!("Linux booted in {guest} ticks?")
    })?;
    machine.ensure(of_all <= ROOT_SHARE_LIMIT, || {
        format!("{of_all:.2} % of all ticks were spent in the hypervisor")
    })
}

fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole.max(1) as f64
}

fn number(machine: &Machine<'_>, event: &Event, key: &str) -> Outcome<u64> {
    event
        .number(key)
        .ok_or_else(|| machine.failure(&format!("`{}` has no `{key}`", event.name())))
}
