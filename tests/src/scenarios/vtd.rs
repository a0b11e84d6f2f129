//! Devices reach their VM's memory and raise their own interrupts, and nothing else: shown by devices that try.
//!
//! The cases themselves run in the hypervisor (`hypervisor.selftest = "vtd"`), on QEMU's emulated IOMMU, which needs no VT-x. What
//! they say is compared with what was recorded and with QEMU's own notes: see [`report`].

mod report;

use std::fs;
use std::path::Path;

use serde_json::Value;
use xtask::error::IoContext;
use xtask::platform::equipment::{Device, Equipment, GATEWAY};

use super::linux::PROMPT;
use crate::context::{Context, Setup};
use crate::lab::HELLO;
use crate::machine::Machine;
use crate::manifest::Manifest;
use crate::outcome::{Failure, Outcome, ensure};
use crate::scenario::{Ground, Scenario};
use report::{Case, Faults};

/// Everything that the cases use.
const ATTACKED: Equipment = Equipment {
    iommu: true,
    devices: &[Device::Edu, Device::Nic, Device::Nvme],
    tpm: None,
};
/// `edu`, as faults name it.
const ATTACKER: u16 = Device::Edu.source();
/// With it the machine has a GiB in a row above 4 GiB.
const MEMORY_MIB: u64 = 4096;
/// What the self-test says at its end.
const TOTAL: &str = r"self-test vtd: \d+ ok, \d+ failed, \d+ skipped";
const SECTOR: usize = 512;
/// Sectors that the case with the disk fills at least: the issue's "a few thousand".
const SECTORS: usize = 2000;

/// Reasons by number ("Intel Virtualization Technology for Directed I/O", "Fault Reason Encodings for DMA Requests" and
/// "Fault Reason Encodings for Interrupt Requests").
const NO_DOMAIN: &[u64] = &[1, 2];
const NOT_WRITABLE: &[u64] = &[5];
const NOT_READABLE: &[u64] = &[6];
const COMPATIBILITY_FORMAT: &[u64] = &[0x25];
const NO_SUCH_ENTRY: &[u64] = &[0x21, 0x22];
const OTHER_SOURCE: &[u64] = &[0x26];

const fn quiet(name: &'static str) -> Case {
    Case {
        name,
        faults: Faults::None,
    }
}

const fn attack(name: &'static str, codes: &'static [u64]) -> Case {
    Case {
        name,
        faults: Faults::One(codes),
    }
}

const CASES: [Case; 17] = [
    attack("edu-before-its-domain", NO_DOMAIN),
    quiet("edu-inside-its-frames"),
    attack("edu-another-vms-frame", NOT_WRITABLE),
    attack("edu-reads-another-vms-frame", NOT_READABLE),
    attack("edu-hypervisor-frame", NOT_WRITABLE),
    attack("edu-unmapped-address", NOT_WRITABLE),
    attack("edu-read-only-frame", NOT_WRITABLE),
    attack("edu-after-unmap", NOT_WRITABLE),
    attack("edu-across-a-page-boundary", NOT_WRITABLE),
    quiet("edu-own-interrupt"),
    attack("edu-forged-interrupt", COMPATIBILITY_FORMAT),
    attack("edu-forged-handle", NO_SUCH_ENTRY),
    attack("edu-anothers-interrupt", OTHER_SOURCE),
    Case {
        name: "edu-flood",
        faults: Faults::Many(NOT_WRITABLE),
    },
    quiet("nic-frames"),
    quiet("disk-blocks"),
    quiet("costs"),
];

/// What mapping and unmapping may cost: frames of tables, requests, batches of them. The issue's numbers, not the tool's.
const COSTS: [(&str, &str, u64); 5] = [
    ("map-1g", "table_frames", 4),
    ("map-1g", "requests", 1),
    ("unmap-1g", "table_frames", 4),
    ("unmap-1g", "requests", 1),
    ("unmap-1024-scattered", "submissions", 8),
];
const COSTS_REPORT: &str = "target/bench/vtd.json";

/// The kernel with a driver for the card, and the RAM disk that loads it.
const NIC_PAYLOADS: &[&str] = &["vmlinuz-6.1", "initrd-nic-6.1.img"];

pub fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "vtd_devices_reach_only_their_domains",
            Ground::QemuTcg,
            240,
            devices_in_their_domains,
        ),
        Scenario::new(
            "vtd_off_lets_the_same_transfer_through",
            Ground::QemuTcg,
            120,
            without_remapping,
        ),
        Scenario::new(
            "vtd_diagnostics_without_vtx_name_units_groups_and_domains",
            Ground::QemuTcg,
            120,
            diagnostics,
        ),
        Scenario::new(
            "vtd_required_but_absent_is_a_named_error",
            Ground::QemuTcg,
            120,
            required_but_absent,
        ),
        Scenario::new(
            "vtd_devices_that_a_vm_cannot_have_are_named_errors",
            Ground::Vmx,
            120,
            devices_not_to_be_had,
        ),
        Scenario::new(
            "vtd_costs_stay_within_their_limits",
            Ground::QemuTcg,
            240,
            costs,
        ),
        Scenario::new(
            "vtd_on_kvm_an_e1000e_passed_through_pings",
            Ground::Kvm,
            300,
            passed_through,
        )
        .with_payloads(NIC_PAYLOADS),
    ]
}

/// Boots with these lines of `[hypervisor]`, one of which asks for the self-test, and waits until it has said everything.
fn self_test<'a>(context: &'a Context<'_>, hypervisor: &'static str) -> Outcome<Machine<'a>> {
    let mut manifest = Manifest::of(HELLO);
    manifest.hypervisor = hypervisor;
    let setup = Setup {
        memory_mib: MEMORY_MIB,
        equipment: ATTACKED,
        ..Setup::default()
    };
    let mut machine = context.start(context.boot_guest(&manifest)?, setup)?;
    let total = machine.expect(TOTAL)?;
    context.note(total.clone());
    let cases: usize = total
        .split_whitespace()
        .filter_map(|word| word.parse::<usize>().ok())
        .sum();
    machine.event("self-test", cases.saturating_sub(1))?;
    machine.ensure_events(&["boot", "plan", "self-test"])?;
    Ok(machine)
}

/// Fails with all `complaints`, if there are any.
fn ensure_none(machine: &Machine<'_>, complaints: &[String]) -> Outcome {
    machine.ensure(complaints.is_empty(), || complaints.join("\n"))
}

fn devices_in_their_domains(context: &Context<'_>) -> Outcome {
    let mut machine = self_test(context, "iommu = \"required\"\nselftest = \"vtd\"")?;
    let events = machine.events();
    ensure_none(&machine, &report::complaints(&CASES, &events, ATTACKER))?;
    let (refused, told) = (
        report::refusals(&machine.refusals()?),
        report::told(&events),
    );
    let untold = refused
        .difference(&told)
        .map(|refusal| format!("QEMU refused, and Bulkhead does not tell of it: {refusal}"));
    let invented = told
        .difference(&refused)
        .map(|refusal| format!("Bulkhead tells of it, and QEMU did not refuse it: {refusal}"));
    ensure_none(&machine, &Vec::from_iter(untold.chain(invented)))?;
    let image = machine.blueprint().nvme_image();
    let written = written_sectors(&image)?;
    context.note(format!(
        "QEMU refused {} transfers; {written} sectors of its disk hold data",
        refused.len()
    ));
    machine.ensure(written >= SECTORS, || {
        format!("{written} sectors of {} hold data", image.display())
    })
}

/// Sectors of the disk image at `path` that are not empty.
fn written_sectors(path: &Path) -> Outcome<usize> {
    let bytes = fs::read(path).context("read", path)?;
    let sectors = bytes.chunks(SECTOR);
    Ok(sectors
        .filter(|sector| sector.iter().any(|byte| *byte != 0))
        .count())
}

fn without_remapping(context: &Context<'_>) -> Outcome {
    let mut machine = self_test(context, "iommu = \"off\"\nselftest = \"vtd-off\"")?;
    let cases = [quiet("edu-without-remapping")];
    let events = machine.events();
    ensure_none(&machine, &report::complaints(&cases, &events, ATTACKER))?;
    let log = machine.refusals()?;
    machine.ensure(report::refusals(&log).is_empty(), || {
        format!("QEMU's IOMMU was to be off:\n{log}")
    })
}

/// On a machine without VT-x everything up to it happens, and is said.
fn diagnostics(context: &Context<'_>) -> Outcome {
    let mut manifest = Manifest::of(HELLO);
    manifest.hypervisor = "iommu = \"required\"\nlog_level = \"debug\"";
    let setup = Setup {
        equipment: ATTACKED,
        ..Setup::default()
    };
    let mut machine = context.start(context.boot_guest(&manifest)?, setup)?;
    let error = machine.refused()?;
    machine.ensure(error.starts_with("VT-x is missing"), || {
        format!("the event names another error: {error}")
    })?;
    machine.ensure_console(&[
        "VT-d: 1 unit of ",
        "VT-d unit 0 at 0xfed90000",
        "48-bit guest addresses, pages up to 1 GiB",
        "queued invalidation",
        "remaps interrupts to x2APIC ids",
        "PCI: ",
        "VT-d: 1 unit on, no function in any domain; interrupts remapped, none allowed",
        "error: ",
        "VT-x is missing",
        "nothing was started",
    ])?;
    let console = machine.console();
    let mut groups = Vec::new();
    for device in ["1234:11e8", "8086:10d3", "1b36:0010"] {
        let line = console
            .lines()
            .find(|line| line.contains("PCI group ") && line.contains(device));
        let group = line.and_then(|line| line.split("PCI group ").nth(1)?.split(':').next());
        machine.ensure(group.is_some_and(|group| !groups.contains(&group)), || {
            format!("{device} has no group of its own: {line:?}")
        })?;
        groups.extend(group);
    }
    Ok(())
}

/// What is not there is missing, and what is there cannot be had without what holds the machine together.
fn devices_not_to_be_had(context: &Context<'_>) -> Outcome {
    let mut manifest = Manifest::of(HELLO);
    manifest.devices = "\n[[vm.device]]\nid = \"ffff:fffe\"\n".to_owned();
    let mut machine = context.start(context.boot_guest(&manifest)?, Setup::default())?;
    machine.refused()?;
    machine.ensure_console(&[
        "error[machine-device-missing]",
        "id = \"ffff:fffe\"",
        "it can give away",
    ])?;
    drop(machine);
    // Bochs' disk controller is a function of the device that has its interrupt controllers.
    manifest.devices = "\n[[vm.device]]\nid = \"8086:7010\"\n".to_owned();
    let mut machine = context.start(context.boot_guest(&manifest)?, Setup::default())?;
    machine.refused()?;
    machine.ensure_console(&["error[machine-device-group]", "stays with the hypervisor"])
}

fn required_but_absent(context: &Context<'_>) -> Outcome {
    let mut manifest = Manifest::of(HELLO);
    manifest.hypervisor = "iommu = \"required\"";
    let setup = Setup {
        equipment: Equipment {
            iommu: false,
            ..Equipment::default()
        },
        ..Setup::default()
    };
    let mut machine = context.start(context.boot_guest(&manifest)?, setup)?;
    let error = machine.refused()?;
    machine.ensure(error.contains("iommu = \"required\""), || {
        format!("the event names another error: {error}")
    })?;
    machine.ensure_console(&["VT-d: none", "error: ", "nothing was started"])
}

fn costs(context: &Context<'_>) -> Outcome {
    let path = context.lab.workspace.root().join(COSTS_REPORT);
    if path.exists() {
        fs::remove_file(&path).context("remove", &path)?;
    }
    let done = context.run("bench", context.xtask(&["bench", "vtd"]))?;
    done.ensure_code(0)?;
    let text = fs::read_to_string(&path).context("read", &path)?;
    let report: Value = serde_json::from_str(&text)
        .map_err(|error| Failure::Unmet(format!("{COSTS_REPORT} is no JSON: {error}")))?;
    context.note(report.to_string());
    for (what, key, limit) in COSTS {
        let cost = report
            .pointer(&format!("/costs/{what}/{key}"))
            .and_then(Value::as_u64);
        ensure(cost.is_some_and(|cost| cost <= limit), || {
            format!("{what}: {key} is {cost:?}, and may be {limit}")
        })?;
        ensure(done.output.contains(what), || {
            format!("the table has no row {what}:\n{}", done.output)
        })?;
    }
    Ok(())
}

/// Linux with its own driver on a real card, in a VM. Written with care and never run: see `docs/SUPPORT.md`.
fn passed_through(context: &Context<'_>) -> Outcome {
    let [kernel, initrd] = NIC_PAYLOADS else {
        return Err(Failure::Unmet("two payloads are needed".to_owned()));
    };
    let mut manifest = Manifest::of(*kernel).with_cmdline("console=ttyS0 bulkhead.ip=10.0.2.15/24");
    manifest.hypervisor = "iommu = \"required\"";
    manifest.memory = "256M";
    manifest.initrd = Some((*initrd).to_owned());
    manifest.devices = "\n[[vm.device]]\nid = \"8086:10d3\"\n".to_owned();
    let setup = Setup {
        memory_mib: 2048,
        cpus: 2,
        equipment: Equipment {
            devices: &[Device::Nic],
            ..Equipment::default()
        },
        ..Setup::default()
    };
    let mut machine = context.start(context.boot(&manifest.to_string())?, setup)?;
    machine.expect(PROMPT)?;
    // The card's link takes a second or two.
    machine.send(&format!(
        "until ping -c 1 -W 1 {GATEWAY}; do :; done; ping -c 3 {GATEWAY}"
    ))?;
    machine.expect("3 packets transmitted, 3 packets received")?;
    machine.send("poweroff -f")?;
    machine.off()?;
    let faults = machine.count("dma-fault", |_| true);
    machine.ensure(faults == 0, || format!("{faults} faults were recorded"))?;
    let log = machine.refusals()?;
    machine.ensure(report::refusals(&log).is_empty(), || {
        format!("QEMU's IOMMU refused transfers:\n{log}")
    })
}
