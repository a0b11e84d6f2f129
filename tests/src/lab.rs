//! What all scenarios share: built binaries, provisioned emulators and payloads. Put together once, before the first
//! scenario's clock runs.

use std::path::{Path, PathBuf};
use std::process::Command;

use xtask::platform::{Emulator, Platform};
use xtask::provision::payload;
use xtask::{Error, Result, Workspace, build, exec, programs, ui};

use crate::disk_tools::DiskTools;
use crate::scenario::Ground;

/// The bare-metal guests that scenarios boot.
pub const HELLO: &str = "hello.elf";
/// The guest that attacks; see `tests/guests/src/bin/hostile`.
pub const HOSTILE: &str = "hostile.elf";
/// The guest with several vCPUs.
pub const SMP: &str = "smp.elf";
/// The guest that counts, idles, or checks itself.
pub const BURN: &str = "burn.elf";
/// The guest that looks at all of its memory, and leaves a secret there.
pub const MEMORY: &str = "memory.elf";
/// The guest that fails in every way.
pub const FAULT: &str = "fault.elf";
/// The guest that drives virtio devices.
pub const VIRTIO: &str = "virtio.elf";
/// The guest with something to hide, and with eyes for what others hide.
pub const SECRET: &str = "secret.elf";
/// The guest with a kernel half, and user code that reaches for it.
pub const SPLIT: &str = "split.elf";
/// The guest that measures.
pub const BENCH: &str = "bench.elf";

/// The shared equipment.
#[derive(Debug)]
pub struct Lab {
    /// The checkout.
    pub workspace: Workspace,
    /// The hypervisor under test.
    pub efi: PathBuf,
    /// The `cargo xtask` executable, for scenarios about the command line.
    pub xtask: PathBuf,
    /// Partition and file system checkers.
    pub disk_tools: DiskTools,
    vmx: Option<(Platform, Emulator)>,
    qemu: Option<Emulator>,
    kvm: Option<Emulator>,
}

impl Lab {
    /// Builds and fetches what scenarios on `grounds`, booting `payloads`, need.
    ///
    /// # Errors
    /// When something cannot be built or had.
    pub fn prepare(
        workspace: Workspace,
        platform: Option<Platform>,
        efi: Option<&Path>,
        grounds: &[Ground],
        payloads: &[&str],
    ) -> Result<Self> {
        let efi = build::hypervisor_or(&workspace, efi)?;
        build::guests(&workspace)?;
        programs::build(&workspace)?;
        let xtask = build_xtask(&workspace)?;
        let disk_tools = DiskTools::provision(&workspace)?;
        let vmx = if grounds.contains(&Ground::Vmx) {
            let (chosen, reason) = Platform::choose(platform)?;
            ui::note(&format!("guests run on {chosen}: {reason}"));
            Some((chosen, chosen.provision(&workspace)?))
        } else {
            None
        };
        if grounds.contains(&Ground::Bochs) {
            Platform::Bochs.provision(&workspace)?;
        }
        let qemu = if grounds.contains(&Ground::QemuTcg) {
            Some(Platform::QemuTcg.provision(&workspace)?)
        } else {
            None
        };
        let kvm = if grounds.contains(&Ground::Kvm) && Ground::Kvm.obstacle().is_none() {
            Some(Platform::Kvm.provision(&workspace)?)
        } else {
            None
        };
        for name in payloads {
            payload::find(&workspace, name)?;
        }
        Ok(Self {
            workspace,
            efi,
            xtask,
            disk_tools,
            vmx,
            qemu,
            kvm,
        })
    }

    /// The emulator for `ground`.
    ///
    /// # Errors
    /// When the ground has none.
    pub fn emulator(&self, ground: Ground) -> Result<Emulator> {
        let emulator = match ground {
            Ground::Vmx => self.vmx.as_ref().map(|(_, emulator)| emulator.clone()),
            Ground::Bochs => Some(Platform::Bochs.provision(&self.workspace)?),
            Ground::QemuTcg => self.qemu.clone(),
            Ground::Kvm => self.kvm.clone(),
            Ground::Host => None,
        };
        emulator.ok_or_else(|| Error::BadCall("this scenario has no machine".to_owned()))
    }

    /// The program `name` for Linux, of `tests/programs`.
    pub fn program(&self, name: &str) -> PathBuf {
        programs::place(&self.workspace, name)
    }

    /// The payload `name`: a test guest, a kernel or the RAM disk.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn payload(&self, name: &str) -> Result<PathBuf> {
        payload::find(&self.workspace, name)?.ok_or_else(|| Error::Unavailable {
            what: format!("there is no payload {name}"),
            hint: "name a test guest, or a payload that the tool fetches".to_owned(),
        })
    }
}

/// Builds the tool, as a person's `cargo xtask` does before anything else.
fn build_xtask(workspace: &Workspace) -> Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(workspace.root())
        .args([
            "build",
            "--quiet",
            "--package",
            "xtask",
            "--bin",
            "xtask",
            "--target-dir",
        ])
        .arg(workspace.cargo_target());
    exec::passthrough(&mut cargo, "install Rust with rustup")?;
    Ok(workspace.cargo_target().join("debug/xtask"))
}
