//! swtpm, a TPM 2.0 in software, unpacked from Debian 13's packages into the cache: fetched only when a machine has a TPM.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::paths::Workspace;
use crate::provision::apt::{self, PrivateApt};
use crate::provision::once;
use crate::ui::Step;

/// The suite that QEMU comes from, too.
const SUITE: &str = "trixie";
/// Changes when the directory's layout does, so that an old cache is not reused.
const DIRECTORY: &str = "swtpm-trixie-1";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";
const BINARY: &str = "usr/bin/swtpm";

/// A provisioned swtpm.
#[derive(Debug, Clone)]
pub struct Swtpm {
    root: PathBuf,
}

impl Swtpm {
    /// Where swtpm is or will be.
    #[must_use]
    pub fn place(workspace: &Workspace) -> PathBuf {
        workspace.cache().join(DIRECTORY)
    }

    /// swtpm, fetched when it is not there yet.
    ///
    /// # Errors
    /// When the packages cannot be had.
    pub fn provision(workspace: &Workspace) -> Result<Self> {
        let root = once(workspace, &Self::place(workspace), |dir| {
            let step = Step::start("Fetching swtpm from Debian's packages");
            let apt = PrivateApt::open(&workspace.cache(), "swtpm", &[SUITE])?;
            let packages = apt.download_with_dependencies(&["swtpm"])?;
            step.detail("unpacking");
            apt::unpack(&packages, dir)?;
            apt.discard()?;
            step.done(&format!("{} packages", packages.len()));
            Ok(())
        })?;
        let binary = root.join(BINARY);
        if !binary.exists() {
            return Err(Error::Unavailable {
                what: format!(
                    "{} is not in the unpacked packages",
                    workspace.show(&binary)
                ),
                hint: format!("delete {} and try again", workspace.show(&root)),
            });
        }
        Ok(Self { root })
    }

    /// The command that is a TPM with its state in `state`, listening at `socket` until it is ended.
    #[must_use]
    pub fn command(&self, state: &Path, socket: &Path) -> Command {
        let libraries = self.root.join(LIBRARIES);
        let own = libraries.join("swtpm");
        let mut command = Command::new(self.root.join(LOADER));
        command
            .arg("--library-path")
            .arg(format!("{}:{}", libraries.display(), own.display()))
            .arg(self.root.join(BINARY))
            .args(["socket", "--tpm2"])
            .arg("--tpmstate")
            .arg(format!("dir={}", state.display()))
            .arg("--ctrl")
            .arg(format!("type=unixio,path={}", socket.display()));
        command
    }
}
