//! QEMU 10 with its libraries and firmware, unpacked from Debian 13's packages into the cache.
//!
//! Newer than what Debian 12 ships (see `SUPPORT.md`), so it runs on its own dynamic loader and libraries. How it remaps
//! interrupts is mended before the directory is put in place: see `remapping`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, IoContext, Result};
use crate::paths::Workspace;
use crate::provision::apt::{self, PrivateApt};
use crate::provision::{once, remapping};
use crate::ui::Step;

/// The Debian suite with a QEMU new enough: Debian 12's 7.2 has no x2APIC of its own, and its IOMMU records no fault of an
/// interrupt.
const SUITE: &str = "trixie";
const PACKAGES: [&str; 3] = ["qemu-system-x86", "ovmf", "ipxe-qemu"];
/// Changes when the directory's layout or the mending does, so that an old cache is not reused.
const DIRECTORY: &str = "qemu-trixie-2";
/// Where the packages keep what QEMU loads into its machines.
const DATA: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";
const BINARY: &str = "usr/bin/qemu-system-x86_64";

/// A provisioned QEMU.
#[derive(Debug, Clone)]
pub struct Qemu {
    root: PathBuf,
}

impl Qemu {
    /// Where QEMU is or will be.
    #[must_use]
    pub fn place(workspace: &Workspace) -> PathBuf {
        workspace.cache().join(DIRECTORY)
    }

    /// QEMU, fetched when it is not there yet.
    ///
    /// # Errors
    /// When the packages cannot be had.
    pub fn provision(workspace: &Workspace) -> Result<Self> {
        let root = once(workspace, &Self::place(workspace), |dir| {
            let step = Step::start("Fetching QEMU and its firmware from Debian's packages");
            let apt = PrivateApt::open(&workspace.cache(), SUITE, &[SUITE])?;
            let packages = apt.download_with_dependencies(&PACKAGES)?;
            step.detail("unpacking");
            apt::unpack(&packages, dir)?;
            apt.discard()?;
            step.done(&format!("{} packages", packages.len()));
            mend(&dir.join(BINARY))
        })?;
        let qemu = Self { root };
        for needed in [
            qemu.root.join(BINARY),
            qemu.firmware_code(),
            qemu.firmware_variables(),
        ] {
            if !needed.exists() {
                return Err(Error::Unavailable {
                    what: format!(
                        "{} is not in the unpacked packages",
                        workspace.show(&needed)
                    ),
                    hint: format!("delete {} and try again", workspace.show(&qemu.root)),
                });
            }
        }
        Ok(qemu)
    }

    /// A command that starts QEMU; the caller adds the machine.
    #[must_use]
    pub fn command(&self) -> Command {
        let libraries = self.root.join(LIBRARIES);
        let mut command = Command::new(self.root.join(LOADER));
        command
            .arg("--library-path")
            .arg(&libraries)
            .arg(self.root.join(BINARY));
        for dir in DATA {
            command.arg("-L").arg(self.root.join(dir));
        }
        // Modules are looked for where the package would be installed.
        command
            .arg("-nodefaults")
            .env("QEMU_MODULE_DIR", libraries.join("qemu"));
        command
    }

    /// The firmware's code.
    #[must_use]
    pub fn firmware_code(&self) -> PathBuf {
        self.root.join("usr/share/OVMF/OVMF_CODE_4M.fd")
    }

    /// The firmware's variables as they are when new.
    #[must_use]
    pub fn firmware_variables(&self) -> PathBuf {
        self.root.join("usr/share/OVMF/OVMF_VARS_4M.fd")
    }

    /// The unpacked tree.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// Mends what is wrong with the emulator at `binary`.
fn mend(binary: &Path) -> Result<()> {
    let mut file = fs::read(binary).context("read", binary)?;
    let step = Step::start("Mending how the emulator remaps interrupts");
    step.done(match remapping::mend(&mut file) {
        remapping::Outcome::Mended => "mended in the private copy",
        remapping::Outcome::Unknown => {
            "its code is not the known one and stays as it is; where it is wrong, a forged interrupt gets through"
        }
    });
    fs::write(binary, file).context("write", binary)
}
