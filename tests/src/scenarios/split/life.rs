//! The ends and beginnings of a split guest's life: another kernel is started in place of the one that runs (kexec), or the machine is reset. Each kernel is
//! then kept from its user code as the first one was, and user code sees what it saw before.

use std::fs;

use xtask::error::IoContext;
use xtask::provision::initramfs::{File, overlay};

use super::guest::{self, Guest, MATRIX, PAYLOADS};
use super::samples;
use super::stress::{self, Length};
use crate::context::Context;
use crate::machine::Machine;
use crate::outcome::{Outcome, ensure};
use crate::scenario::{Ground, Scenario};
use crate::scenarios::linux::PROMPT;

const LIMIT: u64 = 900;
/// Samples of each guest, of which each of its kernels has some.
const SAMPLES: u32 = 1000;
const PROGRAM: &str = "kexec";

/// Where the next kernel comes to be, whether at an address that was linked into it, and where in memory it is put: that address' own frames, or others.
const PLACES: [(&str, bool, u64); 3] = [
    ("another_address", false, 64 << 20),
    ("other_frames", true, 64 << 20),
    ("the_same_place", true, 16 << 20),
];

pub fn scenarios() -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for (kernel, (name, guest)) in MATRIX.into_iter().enumerate() {
        for (place, (to, fixed, address)) in PLACES.into_iter().enumerate() {
            let guest = Guest {
                samples: SAMPLES,
                fixed,
                ..guest.split("")
            };
            let name = format!("split_kexec_of_{name}_to_{to}");
            let scenario = Scenario::new(name, Ground::Bochs, LIMIT, move |context| {
                kexec(context, guest, address)
            })
            .with_payloads(PAYLOADS);
            scenarios.push(match (kernel, place) {
                (0, 0) => scenario,
                _ => scenario.only_when_long(),
            });
        }
    }
    let [(_, first), ..] = MATRIX;
    scenarios.push(
        Scenario::new(
            "split_is_in_force_after_two_resets",
            Ground::Bochs,
            LIMIT,
            move |context| {
                let guest = Guest {
                    samples: SAMPLES,
                    restarts: true,
                    ..first.split("")
                };
                resets(context, guest)
            },
        )
        .with_payloads(PAYLOADS)
        .only_when_long(),
    );
    scenarios
}

/// The kernel starts the same one anew, without a reset in between.
fn kexec(context: &Context<'_>, guest: Guest, address: u64) -> Outcome {
    let mut files = stress::files(context)?;
    let second = context.lab.payload(guest.kernel.initrd)?;
    let mut initrd = fs::read(&second).context("read", &second)?;
    initrd.extend(overlay(&files)?);
    files.extend([
        File::read("bin/kexec", &context.lab.program(PROGRAM))?,
        File::read("root/kernel", &context.lab.payload(guest.kernel.image)?)?,
        File::new("root/initrd", initrd),
    ]);
    let mut machine = guest.boot(context, &[overlay(&files)?])?;
    let before = stress::perform(&mut machine, guest, Length::Rounds(4))?;
    samples::ensure_since(&mut machine, guest, 0)?;

    machine.send(&format!("kexec {address} kernel initrd"))?;
    machine.expect("Linux version")?;
    let taken = samples::count(&mut machine);
    machine.expect(PROMPT)?;
    let after = stress::perform(&mut machine, guest, Length::Rounds(4))?;
    samples::ensure_since(&mut machine, guest, taken)?;
    let differences = before.differences(&after);
    ensure(differences.is_empty(), || differences.join("\n"))?;
    guest::finish_content(&mut machine)
}

/// The kernel resets the machine, twice.
fn resets(context: &Context<'_>, guest: Guest) -> Outcome {
    let mut machine = guest.boot(context, &[])?;
    work(&mut machine, guest, 0)?;
    for _ in 0..2 {
        machine.send("reboot -f")?;
        machine.expect("Linux version")?;
        let taken = samples::count(&mut machine);
        machine.expect(PROMPT)?;
        work(&mut machine, guest, taken)?;
    }
    guest::finish_content(&mut machine)?;
    let restart = ["vm-start", "vm-stop", "vm-restart"];
    machine.ensure_events(
        &[
            &restart[..],
            &restart,
            &["vm-start", "vm-stop", "machine-off"],
        ]
        .concat(),
    )
}

/// Something for timer interrupts to interrupt.
fn work(machine: &mut Machine<'_>, guest: Guest, taken: usize) -> Outcome {
    machine.send("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo com''puted")?;
    machine.expect("computed\n")?;
    samples::ensure_since(machine, guest, taken)
}
