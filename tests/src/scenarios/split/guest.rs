//! The Linux in which programs are run: one of Debian's kernels, the RAM disk with its modules, and the programs put behind that.

use std::fs;

use xtask::error::IoContext;

use super::processor::Processor;
use crate::context::{Context, Setup};
use crate::kernel_log;
use crate::machine::Machine;
use crate::manifest::Manifest;
use crate::outcome::Outcome;
use crate::scenarios::linux::PROMPT;

/// The VM's name.
pub const VM: &str = "linux";
/// The RAM disk with the programs behind it, in the scenario's directory.
const INITRD: &str = "initrd.img";

/// A kernel, and the RAM disk with its modules.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    /// The kernel's payload.
    pub image: &'static str,
    /// The RAM disk's.
    pub initrd: &'static str,
}

/// Debian 12's own kernel.
pub const DEBIAN_6_1: Kernel = Kernel {
    image: "vmlinuz-6.1-cloud",
    initrd: "initrd-virtio.img",
};
/// That of its backports.
pub const DEBIAN_6_12: Kernel = Kernel {
    image: "vmlinuz-6.12-cloud",
    initrd: "initrd-virtio-6.12-cloud.img",
};

/// Each kernel, with one vCPU and with two.
pub const MATRIX: [(&str, Guest); 4] = [
    ("6_1_with_1_vcpu", Guest::of(DEBIAN_6_1)),
    ("6_12_with_2_vcpus", Guest::of(DEBIAN_6_12).with_vcpus(2)),
    ("6_1_with_2_vcpus", Guest::of(DEBIAN_6_1).with_vcpus(2)),
    ("6_12_with_1_vcpu", Guest::of(DEBIAN_6_12)),
];
/// What they boot.
pub const PAYLOADS: &[&str] = &[
    DEBIAN_6_1.image,
    DEBIAN_6_1.initrd,
    DEBIAN_6_12.image,
    DEBIAN_6_12.initrd,
];

/// A VM with a Linux.
#[derive(Debug, Clone, Copy)]
pub struct Guest {
    /// Names its machine's directory below the scenario's; empty for a scenario's only one.
    pub part: &'static str,
    /// What it boots.
    pub kernel: Kernel,
    /// Its vCPUs, each on a processor of its own.
    pub vcpus: u32,
    /// Whether its kernel and its user mode have a view each.
    pub split: bool,
    /// What the split uses of its processor.
    pub processor: Processor,
    /// How many of its exits from user code are looked at for what of its kernel is within reach.
    pub samples: u32,
    /// Whether its kernel keeps page tables of its own, which is what the split is to be compared with.
    pub pti: bool,
    /// Whether its kernel is where it was linked to be, and not elsewhere each time.
    pub fixed: bool,
    /// Whether it starts anew when its kernel reboots.
    pub restarts: bool,
}

impl Guest {
    /// A VM with `kernel` and one vCPU, not split.
    pub const fn of(kernel: Kernel) -> Self {
        Self {
            part: "",
            kernel,
            vcpus: 1,
            split: false,
            processor: Processor::ALL,
            samples: 0,
            pti: false,
            fixed: false,
            restarts: false,
        }
    }

    /// The same with so many vCPUs.
    pub const fn with_vcpus(self, vcpus: u32) -> Self {
        Self { vcpus, ..self }
    }

    /// The same with the split, in a machine whose directory is called `part`.
    pub const fn split(self, part: &'static str) -> Self {
        Self {
            part,
            split: true,
            ..self
        }
    }

    /// The same without, as what the split is compared with.
    pub const fn whole(self, part: &'static str) -> Self {
        Self {
            part,
            split: false,
            ..self
        }
    }

    /// Boots it with `overlays` to its prompt.
    pub fn boot<'a>(&self, context: &'a Context<'a>, overlays: &[Vec<u8>]) -> Outcome<Machine<'a>> {
        let initrd = context.lab.payload(self.kernel.initrd)?;
        let mut image = fs::read(&initrd).context("read", &initrd)?;
        overlays
            .iter()
            .for_each(|more| image.extend_from_slice(more));
        context.file(INITRD, image)?;
        let setup = Setup {
            part: self.part,
            cpus: self.vcpus,
            ..Setup::default()
        };
        let mut machine = context.start(context.boot_guest(&self.manifest())?, setup)?;
        machine.expect(PROMPT)?;
        Ok(machine)
    }

    /// The page at which programs call the kernel by a fault is offered, as it is on many a Linux and not on Debian's.
    fn manifest(&self) -> Manifest {
        let pti = if self.pti { "on" } else { "off" };
        let place = if self.fixed { " nokaslr" } else { "" };
        let mut manifest = Manifest::of(self.kernel.image)
            .named(VM)
            .with_cmdline(format!("console=ttyS0 vsyscall=xonly pti={pti}{place}"));
        if self.restarts {
            manifest = manifest.restarting("on-crash");
        }
        manifest.memory = "256M";
        manifest.initrd = Some(INITRD.to_owned());
        if self.vcpus > 1 {
            manifest = manifest.with(&format!("vcpus = {}", self.vcpus));
        }
        if self.split {
            manifest.hypervisor = self.processor.hypervisor();
            manifest = manifest.with(&self.processor.vm());
        }
        if self.samples > 0 {
            manifest = manifest.with(&format!("split_samples = {}", self.samples));
        }
        manifest
    }
}

/// Switches it off; returns what its kernel complained of.
pub fn finish(machine: &mut Machine<'_>) -> Outcome<Vec<String>> {
    machine.send("poweroff -f")?;
    machine.off()?;
    Ok(kernel_log::splats(&machine.console()))
}

/// Switches it off; fails when its kernel complained.
pub fn finish_content(machine: &mut Machine<'_>) -> Outcome {
    let complaints = finish(machine)?;
    machine.ensure(complaints.is_empty(), || {
        format!("the kernel complains:\n{}", complaints.join("\n"))
    })
}
