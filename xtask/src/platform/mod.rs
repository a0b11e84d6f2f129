//! The machines Bulkhead runs on here: which there are, which one is best, how each is started.
//!
//! A [`Machine`] says what is wanted; [`Emulator::command`] turns it into a process to start; `equipment` says what else is in
//! it. What each platform can prove is told in `SUPPORT.md`.

pub mod bochs;
pub mod equipment;
pub mod kvm;
pub mod qemu;
pub mod size;

use std::fmt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use crate::error::{Error, Result};
use crate::paths::Workspace;
use crate::platform::equipment::Equipment;
use crate::provision::bochs::Bochs;
use crate::provision::qemu::Qemu;

/// A place to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// QEMU on a host that nests VT-x.
    Kvm,
    /// Bochs, which emulates VT-x completely.
    Bochs,
    /// QEMU's own emulation: VT-d and PXE, but no VT-x.
    QemuTcg,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Bochs => "bochs",
            Self::QemuTcg => "qemu-tcg",
        })
    }
}

impl Platform {
    /// The platform named `asked`, or the best one for running guests on this machine, with the reason.
    ///
    /// # Errors
    /// When `kvm` is asked for on a machine that cannot nest VT-x.
    pub fn choose(asked: Option<Self>) -> Result<(Self, String)> {
        let kvm = kvm::Facts::gather();
        match (asked, kvm.obstacle()) {
            (Some(Self::Kvm), Some(obstacle)) => Err(Error::Unavailable {
                what: format!("the platform kvm cannot be used: {obstacle}"),
                hint: "use --platform bochs, which emulates VT-x".to_owned(),
            }),
            (Some(platform), _) => Ok((platform, "asked for".to_owned())),
            (None, None) => Ok((Self::Kvm, "this machine nests VT-x".to_owned())),
            (None, Some(obstacle)) => Ok((
                Self::Bochs,
                format!("it emulates VT-x; not kvm, because {obstacle}"),
            )),
        }
    }

    /// The emulator of this platform, fetched when it is not there yet.
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn provision(self, workspace: &Workspace) -> Result<Emulator> {
        Ok(match self {
            Self::Bochs => Emulator::Bochs(Bochs::provision(workspace)?),
            Self::Kvm => Emulator::Qemu(Qemu::provision(workspace)?, qemu::Accelerator::Kvm),
            Self::QemuTcg => Emulator::Qemu(Qemu::provision(workspace)?, qemu::Accelerator::Tcg),
        })
    }
}

/// What the emulated machine starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Medium {
    /// A disk image.
    Disk(PathBuf),
    /// A TFTP directory, served to the firmware's PXE.
    Tftp(PathBuf),
}

/// A machine to emulate.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Processors.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// What it starts from.
    pub medium: Medium,
    /// Where its files go: configuration, logs, `events.jsonl`.
    pub dir: PathBuf,
    /// The local TCP port on which someone listens for its first serial port.
    pub console_port: u16,
    /// Start the clock at the same moment in every run, for runs that are compared.
    pub fixed_clock: bool,
    /// What else is in it.
    pub equipment: Equipment,
}

impl Machine {
    /// The file that receives the second serial port: one JSON object a line.
    #[must_use]
    pub fn events(&self) -> PathBuf {
        self.dir.join("events.jsonl")
    }

    /// The file for what the emulator itself prints.
    #[must_use]
    pub fn emulator_log(&self) -> PathBuf {
        self.dir.join("emulator.log")
    }

    /// The file in which QEMU's IOMMU notes each transfer that it refuses, whatever it tells the machine.
    #[must_use]
    pub fn refusals(&self) -> PathBuf {
        self.dir.join("iommu.log")
    }

    /// The socket of the TPM, in the machine's directory: the system takes no long path for it.
    pub const TPM_SOCKET: &'static str = "tpm.sock";

    /// The directory of what the TPM keeps.
    #[must_use]
    pub fn tpm_state(&self) -> PathBuf {
        self.dir.join("tpm")
    }

    /// The firmware's variables.
    #[must_use]
    pub fn variables(&self) -> PathBuf {
        self.dir.join("OVMF_VARS.fd")
    }

    /// The file behind the NVMe disk.
    #[must_use]
    pub fn nvme_image(&self) -> PathBuf {
        self.dir.join("nvme.img")
    }
}

/// A provisioned emulator.
#[derive(Debug, Clone)]
pub enum Emulator {
    /// Bochs.
    Bochs(Bochs),
    /// QEMU with an accelerator.
    Qemu(Qemu, qemu::Accelerator),
}

impl Emulator {
    /// The command that starts `machine`.
    ///
    /// # Errors
    /// When the machine cannot be expressed on this platform, or its files cannot be written.
    pub fn command(&self, machine: &Machine) -> Result<Command> {
        match self {
            Self::Bochs(bochs) => bochs::command(bochs, machine),
            Self::Qemu(qemu, accelerator) => qemu::command(qemu, *accelerator, machine),
        }
    }

    /// Whether it shows the machine's screen on a terminal that it names in its output.
    #[must_use]
    pub const fn has_screen(&self) -> bool {
        matches!(self, Self::Bochs(_))
    }

    /// Whether the emulator's end was the machine's, not a failure of the emulator.
    #[must_use]
    pub fn ended_well(&self, status: ExitStatus, machine: &Machine) -> bool {
        match self {
            Self::Bochs(_) => status.success() || bochs::powered_off(machine),
            Self::Qemu(..) => status.success(),
        }
    }
}
