//! `sgdisk` and `fsck.vfat`, which judge the disk images: the machine's own, or Debian's unpacked into the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use xtask::provision::apt::{self, PrivateApt};
use xtask::provision::once;
use xtask::ui::Step;
use xtask::{Error, Result, Workspace, exec};

const SUITE: &str = "bookworm";
const PACKAGES: [&str; 2] = ["gdisk", "dosfstools"];
/// Changes when the directory's layout does, so that an old cache is not reused.
const DIRECTORY: &str = "disk-tools-bookworm-1";
const PLACES: [&str; 4] = ["usr/sbin", "sbin", "usr/bin", "bin"];
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

/// Where the two programs are.
#[derive(Debug)]
pub struct DiskTools {
    /// The root of the tree they are in: the machine's own, or one in the cache.
    root: PathBuf,
}

impl DiskTools {
    /// The machine's programs, or Debian's when one is missing.
    ///
    /// # Errors
    /// When the packages cannot be had.
    pub fn provision(workspace: &Workspace) -> Result<Self> {
        let own = Self {
            root: PathBuf::from("/"),
        };
        if own.path("sgdisk").is_some() && own.path("fsck.vfat").is_some() {
            return Ok(own);
        }
        let root = once(workspace, &workspace.cache().join(DIRECTORY), |dir| {
            let step = Step::start("Fetching sgdisk and fsck.vfat from Debian's packages");
            let apt = PrivateApt::open(&workspace.cache(), "disk-tools", &[SUITE])?;
            apt::unpack(&apt.download_with_dependencies(&PACKAGES)?, dir)?;
            apt.discard()?;
            step.done("unpacked");
            Ok(())
        })?;
        Ok(Self { root })
    }

    /// `sgdisk -v IMAGE`: what it says about the partition tables.
    ///
    /// # Errors
    /// When it finds the image unreadable.
    pub fn verify_partitions(&self, image: &Path) -> Result<String> {
        self.run("sgdisk", &["-v"], image)
    }

    /// `fsck.vfat -n -v VOLUME`: what it says about the file system; a fault in it is an error.
    ///
    /// # Errors
    /// When the file system is damaged.
    pub fn check_volume(&self, volume: &Path) -> Result<String> {
        self.run("fsck.vfat", &["-n", "-v"], volume)
    }

    fn run(&self, program: &'static str, arguments: &[&str], subject: &Path) -> Result<String> {
        let path = self.path(program).ok_or_else(|| Error::MissingTool {
            program: program.to_owned(),
            hint: "delete target/cache to fetch it again",
        })?;
        let mut command = if self.root == Path::new("/") {
            Command::new(path)
        } else {
            let libraries: Vec<_> = LIBRARIES
                .iter()
                .map(|dir| self.root.join(dir).display().to_string())
                .collect();
            let mut command = Command::new(self.root.join(LOADER));
            command
                .arg("--library-path")
                .arg(libraries.join(":"))
                .arg(path);
            command
        };
        command.args(arguments).arg(subject);
        let printed = exec::output(&mut command, "delete target/cache to fetch it again")?;
        Ok(String::from_utf8_lossy(&printed).into_owned())
    }

    fn path(&self, program: &str) -> Option<PathBuf> {
        PLACES
            .iter()
            .map(|place| self.root.join(place).join(program))
            .find(|path| path.is_file())
    }
}
