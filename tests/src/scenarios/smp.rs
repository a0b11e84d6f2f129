//! VMs with several vCPUs: a guest that tries everything between them, and Linux.

use crate::context::{Context, Setup};
use crate::lab::SMP;
use crate::machine::Machine;
use crate::manifest::Manifest;
use crate::outcome::Outcome;
use crate::scenario::{Ground, Scenario};

use super::linux::{DEMO_KERNEL, DEMO_PAYLOADS, PROMPT};

const LIMIT: u64 = 300;
const LINUX_LIMIT: u64 = 900;
/// The guest's cases that run unless one is asked for.
const CASES: [&str; 9] = [
    "start",
    "ipi",
    "masked",
    "faults",
    "destinations",
    "strangers",
    "nmi",
    "tsc",
    "hotplug",
];

pub fn scenarios() -> Vec<Scenario> {
    let guest = |name, cpus, vcpus, hypervisor| {
        Scenario::new(name, Ground::Vmx, LIMIT, move |context| {
            all_cases(context, cpus, vcpus, hypervisor)
        })
    };
    let linux = |name, cpus| {
        Scenario::new(name, Ground::Vmx, LINUX_LIMIT, move |context| {
            linux(context, cpus)
        })
        .with_payloads(DEMO_PAYLOADS)
    };
    vec![
        linux("smp_linux_counts_its_vcpus_and_takes_one_off_and_on", 2),
        linux("smp_linux_works_on_one_cpu_with_two_vcpus", 1),
        guest("smp_ten_thousand_interrupts_between_vcpus_arrive", 2, 2, ""),
        guest("smp_vcpus_that_share_a_cpu_interrupt_each_other", 1, 2, ""),
        guest("smp_more_vcpus_than_cpus_take_turns", 2, 5, ""),
        guest(
            "smp_interrupts_arrive_on_the_software_apic_too",
            2,
            2,
            "apicv = \"off\"",
        ),
        Scenario::new(
            "smp_init_to_the_first_vcpu_ends_the_vm",
            Ground::Vmx,
            LIMIT,
            init_first,
        ),
    ]
}

/// The whole of the guest `smp`, with 10,000 interrupts to and fro.
fn all_cases(context: &Context<'_>, cpus: u32, vcpus: u32, hypervisor: &'static str) -> Outcome {
    let mut manifest = Manifest::of(SMP)
        .with_cmdline(format!("ipi=5000 tsc=50000 cycles=100 vcpus={vcpus}"))
        .with(&format!("vcpus = {vcpus}"));
    manifest.hypervisor = hypervisor;
    let mut machine = start(context, &manifest, cpus)?;
    machine.expect(&format!("smp: {vcpus} vCPUs, this one has x2APIC id 0\n"))?;
    for vcpu in 1..vcpus {
        machine.expect(&format!(
            "smp: vCPU {vcpu} has x2APIC id {vcpu}, by CPUID {vcpu}\n"
        ))?;
    }
    machine.expect("case start: (?:ok|FAIL.*)\n")?;
    let each = machine.expect("smp: ipi 10000 of 10000 arrived, [0-9]+ ticks each\n")?;
    context.note(each.trim().to_owned());
    let masked = machine.expect("smp: masked [0-9]+ sent, .*\n")?;
    context.note(masked.trim().to_owned());
    let faults = machine.expect("smp: faults [0-9]+ on each vCPU, .*\n")?;
    context.note(faults.trim().to_owned());
    machine.expect("all cases done\n")?;
    let verdicts: Vec<_> = CASES
        .iter()
        .map(|case| format!("case {case}: ok"))
        .collect();
    machine.ensure_console(&verdicts.iter().map(String::as_str).collect::<Vec<_>>())?;
    machine.off()?;
    machine.ensure_events(&["vm-start", "vm-stop", "counters", "machine-off"])
}

/// INIT to the vCPU that booted sends it to the reset vector, where a VM has no firmware: that is a fault of the guest's.
fn init_first(context: &Context<'_>) -> Outcome {
    let manifest = Manifest::of(SMP)
        .with_cmdline("case=init-bsp")
        .with("vcpus = 2");
    let mut machine = start(context, &manifest, 2)?;
    machine.expect("case init-bsp: start\n")?;
    let fault = machine.event("guest-fault", 0)?;
    machine.ensure(
        fault.text("what") == "executed-outside-memory"
            && fault.text("detail").contains("0xfffffff0"),
        || format!("the VM ends for another reason: {}", fault.0),
    )?;
    machine.off()?;
    machine.ensure_events(&[
        "vm-start",
        "guest-fault",
        "vm-stop",
        "counters",
        "machine-off",
    ])
}

fn linux(context: &Context<'_>, cpus: u32) -> Outcome {
    let mut manifest = Manifest::of(DEMO_KERNEL)
        .with_cmdline("console=ttyS0")
        .with("vcpus = 2");
    manifest.memory = "256M";
    manifest.initrd = Some("initrd-busybox.img".to_owned());
    let mut machine = start(context, &manifest, cpus)?;
    machine.expect(PROMPT)?;
    asks(&mut machine, "nproc", "^2\n")?;
    // Each vCPU has a column, and the timer has come to both.
    asks(&mut machine, "head -1 /proc/interrupts", "CPU0 +CPU1 *\n")?;
    asks(
        &mut machine,
        "grep LOC: /proc/interrupts",
        "LOC: +[1-9][0-9]* +[1-9][0-9]* ",
    )?;
    asks(
        &mut machine,
        "dmesg | grep -cE 'unstable|Measured .* TSC warp|BUG|Call Trace'",
        "^0\n",
    )?;
    for _ in 0..2 {
        let control = "/sys/devices/system/cpu/cpu1/online";
        asks(&mut machine, &format!("echo 0 > {control}; nproc"), "^1\n")?;
        asks(&mut machine, &format!("echo 1 > {control}; nproc"), "^2\n")?;
    }
    // It does work again, too.
    asks(
        &mut machine,
        "taskset -c 1 cat /proc/self/stat | wc -l",
        "^1\n",
    )?;
    machine.send("poweroff -f")?;
    machine.off()?;
    machine.ensure_events(&["vm-start", "vm-stop", "counters", "machine-off"])
}

/// Types `question` at the shell and expects `answer`, a pattern.
fn asks(machine: &mut Machine<'_>, question: &str, answer: &str) -> Outcome {
    machine.send(question)?;
    machine.expect(&format!("(?m){answer}"))?;
    Ok(())
}

fn start<'a>(context: &'a Context<'a>, manifest: &Manifest, cpus: u32) -> Outcome<Machine<'a>> {
    let setup = Setup {
        cpus,
        ..Setup::default()
    };
    context.start(context.boot_guest(manifest)?, setup)
}
