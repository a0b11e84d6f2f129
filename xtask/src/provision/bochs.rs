//! Bochs 3.1 with its libraries and firmware, unpacked from Debian packages into the cache.
//!
//! Newer than what Debian 12 ships (see `SUPPORT.md`), so it runs on its own dynamic loader and
//! libraries. Its signed division is checked, and mended when wrong, and how it brings interrupts to guests and carries out fast system calls is
//! mended, before the directory is put in place.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, IoContext, Result};
use crate::paths::Workspace;
use crate::provision::apt::{self, PrivateApt};
use crate::provision::function::Outcome;
use crate::provision::{idiv, interrupts, once, syscalls};
use crate::ui::Step;

/// The Debian suite that carries a Bochs new enough; Debian 13's 3.0 dies inside OVMF.
const SUITE: &str = "forky";
const PACKAGES: [&str; 6] = [
    "bochs",
    "bochs-term",
    "ovmf",
    "vgabios",
    "bochsbios",
    "libc-bin",
];
/// Changes when the directory's layout or the mending does, so that an old cache is not reused.
const DIRECTORY: &str = "bochs-forky-5";

const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const BINARY: &str = "usr/bin/bochs-bin";

/// A provisioned emulator.
#[derive(Debug, Clone)]
pub struct Bochs {
    root: PathBuf,
}

impl Bochs {
    /// Where the emulator is or will be.
    #[must_use]
    pub fn place(workspace: &Workspace) -> PathBuf {
        workspace.cache().join(DIRECTORY)
    }

    /// The emulator, fetched and mended when it is not there yet.
    ///
    /// # Errors
    /// When packages cannot be had, or the division can be neither shown right nor mended.
    pub fn provision(workspace: &Workspace) -> Result<Self> {
        let root = once(workspace, &Self::place(workspace), |dir| {
            let step = Step::start("Fetching Bochs and its firmware from Debian's packages");
            let apt = PrivateApt::open(&workspace.cache(), SUITE, &[SUITE])?;
            let packages = apt.download_with_dependencies(&PACKAGES)?;
            step.detail("unpacking");
            apt::unpack(&packages, dir)?;
            apt.discard()?;
            step.done(&format!("{} packages", packages.len()));
            mend(&dir.join(BINARY))
        })?;
        let bochs = Self { root };
        for needed in [
            bochs.loader(),
            bochs.root.join(BINARY),
            bochs.firmware(),
            bochs.vga_bios(),
        ] {
            if !needed.exists() {
                return Err(Error::Unavailable {
                    what: format!(
                        "{} is not in the unpacked packages",
                        workspace.show(&needed)
                    ),
                    hint: format!("delete {} and try again", workspace.show(&bochs.root)),
                });
            }
        }
        Ok(bochs)
    }

    /// A command that starts the emulator; the caller adds its arguments.
    #[must_use]
    pub fn command(&self) -> Command {
        let libraries = self.root.join(LIBRARIES);
        let mut command = Command::new(self.loader());
        command
            .arg("--library-path")
            .arg(&libraries)
            .arg(self.root.join(BINARY))
            .env("LTDL_LIBRARY_PATH", libraries.join("bochs/plugins"))
            .env("BXSHARE", self.share());
        command
    }

    /// The 4 MiB UEFI firmware image.
    #[must_use]
    pub fn firmware(&self) -> PathBuf {
        self.root.join("usr/share/ovmf/OVMF.fd")
    }

    /// The VGA BIOS that the emulated display needs.
    #[must_use]
    pub fn vga_bios(&self) -> PathBuf {
        self.root.join("usr/share/vgabios/vgabios.bin")
    }

    fn share(&self) -> PathBuf {
        self.root.join("usr/share/bochs")
    }

    fn loader(&self) -> PathBuf {
        self.root.join("usr/lib64/ld-linux-x86-64.so.2")
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
    let step = Step::start("Checking the emulator's 64-bit signed division");
    step.done(match idiv::mend(&mut file)? {
        idiv::Outcome::WasRight => "right",
        idiv::Outcome::Mended => "was wrong, mended in the private copy, right now",
    });
    let step = Step::start("Mending how the emulator brings interrupts to guests");
    step.done(match interrupts::mend(&mut file)? {
        Outcome::Mended => "mended in the private copy",
        Outcome::Unknown => {
            "its code is not the known one and stays as it is; where it is wrong, guests hang or crash on several CPUs or with sealed memory; `apicv = \"off\"` avoids most of it"
        }
    });
    let step = Step::start("Mending the emulator's SYSCALL and SYSRET");
    step.done(match syscalls::mend(&mut file)? {
        Outcome::Mended => "mended in the private copy",
        Outcome::Unknown => {
            "their code is not the known one and stays as it is; where it is wrong, 32-bit programs crash in a guest, and its kernel warns of single steps"
        }
    });
    fs::write(binary, file).context("write", binary)
}
