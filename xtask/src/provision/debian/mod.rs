//! A disk with a minimal Debian 12: systemd as init, a root account without a password, a login prompt on the console.
//!
//! mmdebstrap installs the packages into an archive, `customize.sh` makes the tree what a guest needs, mke2fs writes
//! the file system. Nothing is mounted, and where this is not root's process, fakeroot stands in for root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::geteuid;

use crate::error::{IoContext, Result};
use crate::exec;
use crate::paths::{Workspace, fresh_dir};
use crate::provision::apt::{self, PrivateApt};
use crate::provision::modules::Modules;
use crate::provision::once;
use crate::ui::Step;

/// Its file name among the payloads.
pub const PAYLOAD: &str = "debian-12.img";

const SUITE: &str = "bookworm";
/// What is installed besides Debian's essential packages.
const PACKAGES: [&str; 11] = [
    "systemd-sysv",
    "udev",
    // logind, which heeds the power button, is called over it.
    "dbus",
    "login",
    "passwd",
    "mount",
    "kmod",
    "procps",
    "iproute2",
    "iputils-ping",
    "netcat-openbsd",
];
const CUSTOMIZE: &str = include_str!("customize.sh");
/// The time stamp of what is made here, so that the image says little of when: 1 January 2025, 00:00 UTC.
const EPOCH: &str = "1735689600";
const BLOCK: u64 = 4096;
const INODE: u64 = 256;
/// What the guest can still write.
const FREE_BYTES: u64 = 16 * MIB;
const FREE_INODES: u64 = 2048;
/// The file system's own tables, besides inodes, take at most one part in so many.
const TABLE_SHARE: u64 = 64;
const MIB: u64 = 1 << 20;

/// Unpacks the archive and makes a file system of the tree. A guest's writes stay in memory and end with the guest, so
/// that a journal would only double them. The identifier is the same in every build. apt's settings, which name
/// the mirror, stay out.
const MAKE_FILE_SYSTEM: &str = r#"
mkdir "$TREE"
tar --extract --preserve-permissions --numeric-owner --exclude=./etc/apt --directory "$TREE" --file "$ARCHIVE"
mke2fs -q -F -t ext4 -L debian -U b01d0012-0000-4000-8000-000000000012 \
    -E hash_seed=b01d0012-0000-4000-8000-000000000012,lazy_itable_init=0 \
    -O ^has_journal,^metadata_csum,^64bit,^resize_inode -m 0 -b 4096 -I 256 -N "$INODES" \
    -d "$TREE" "$IMAGE" "$KIBIBYTES"
"#;

/// Changes when the directory's layout does, so that an old cache is not reused.
const TOOL_DIRECTORY: &str = "mmdebstrap-bookworm-1";
const HINT: &str = "install the Debian packages perl, tar, e2fsprogs and, unless you are root, fakeroot and uidmap";

/// The programs that are not expected on every Debian machine.
#[derive(Debug, Clone)]
pub struct Tools {
    mmdebstrap: PathBuf,
}

impl Tools {
    /// The programs, fetched when they are not there yet.
    ///
    /// # Errors
    /// When the package cannot be had.
    pub fn provision(workspace: &Workspace) -> Result<Self> {
        let root = once(workspace, &workspace.cache().join(TOOL_DIRECTORY), |dir| {
            let step = Step::start("Fetching mmdebstrap from Debian's packages");
            let apt = PrivateApt::open(&workspace.cache(), "mmdebstrap", &[SUITE])?;
            apt::unpack(&[apt.download("mmdebstrap", SUITE)?], dir)?;
            apt.discard()?;
            step.done("unpacked");
            Ok(())
        })?;
        Ok(Self {
            mmdebstrap: root.join("usr/bin/mmdebstrap"),
        })
    }
}

/// Installs the system and puts its disk, with the kernel's `modules` in it, at `place`.
///
/// # Errors
/// When the packages cannot be had or installed, or the file system cannot be written.
pub fn build(workspace: &Workspace, tools: &Tools, modules: &Modules, place: &Path) -> Result<()> {
    let step = Step::start("Installing a minimal Debian 12 into a disk image");
    let work = fresh_dir(workspace.cache().join("debian.partial"))?;
    let archive = work.join("system.tar");
    install(tools, modules, &work, &archive)?;
    step.detail("writing the file system");
    let size = make_file_system(&archive, &work, place)?;
    fs::remove_dir_all(&work).context("remove", &work)?;
    step.done(&format!("{} MiB", size / MIB));
    Ok(())
}

/// Has mmdebstrap write the customised tree to `archive`.
fn install(tools: &Tools, modules: &Modules, work: &Path, archive: &Path) -> Result<()> {
    let hook = work.join("customize.sh");
    fs::write(&hook, CUSTOMIZE).context("write", &hook)?;
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).context("change", &hook)?;
    let settings = work.join("apt.conf");
    fs::write(&settings, apt::settings()?).context("write", &settings)?;
    exec::output(
        Command::new(&tools.mmdebstrap)
            .env("SOURCE_DATE_EPOCH", EPOCH)
            .env("MODULES", modules.dir())
            .env("RELEASE", modules.release())
            .args(["--variant=essential", "--format=tar"])
            .arg(format!("--include={}", PACKAGES.join(",")))
            .arg(format!("--aptopt={}", settings.display()))
            .arg(format!("--customize-hook={}", hook.display()))
            .arg(SUITE)
            .arg(archive)
            .arg(apt::source(&apt::mirror()?, SUITE)),
        HINT,
    )?;
    Ok(())
}

/// What a system takes on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    inodes: u64,
    bytes: u64,
}

impl Extent {
    /// Reads what `tar --list --verbose` says: lines such as `-rw-r--r-- 0/0  1234 2025-01-01 00:00 ./etc/passwd`.
    /// Every file takes whole blocks, and one that is empty, such as a directory, is counted as one.
    fn of_listing(list: &str) -> Self {
        let blocks = |line: &str| {
            let size = line.split_whitespace().nth(2);
            let size: u64 = size.and_then(|text| text.parse().ok()).unwrap_or(0);
            size.div_ceil(BLOCK).max(1)
        };
        Self {
            inodes: list.lines().count() as u64 + FREE_INODES,
            bytes: list.lines().map(blocks).sum::<u64>() * BLOCK + FREE_BYTES,
        }
    }

    /// How large the disk has to be.
    fn image(self) -> u64 {
        let tables = self.inodes * INODE + self.bytes / TABLE_SHARE;
        (self.bytes + tables).next_multiple_of(MIB)
    }
}

/// Writes a file system with what is in `archive` to `place`; returns the size in bytes.
fn make_file_system(archive: &Path, work: &Path, place: &Path) -> Result<u64> {
    let list = exec::output(
        Command::new("tar")
            .arg("--list")
            .arg("--verbose")
            .arg("--file")
            .arg(archive),
        HINT,
    )?;
    let extent = Extent::of_listing(&String::from_utf8_lossy(&list));
    let mut shell = if geteuid().is_root() {
        Command::new("sh")
    } else {
        let mut fakeroot = Command::new("fakeroot");
        fakeroot.arg("sh");
        fakeroot
    };
    exec::output(
        shell
            .args(["-e", "-c", MAKE_FILE_SYSTEM])
            .env("ARCHIVE", archive)
            .env("TREE", work.join("tree"))
            .env("IMAGE", place)
            .env("KIBIBYTES", format!("{}k", extent.image() / 1024))
            .env("INODES", extent.inodes.to_string()),
        HINT,
    )?;
    Ok(extent.image())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_has_room_for_every_file_and_more() {
        let list = "drwxr-xr-x 0/0            0 2025-01-01 00:00 ./etc/\n\
                    -rw-r--r-- 0/0         4097 2025-01-01 00:00 ./etc/passwd\n";
        let extent = Extent::of_listing(list);
        assert_eq!(extent.inodes, 2 + FREE_INODES);
        assert_eq!(extent.bytes, 3 * BLOCK + FREE_BYTES);
        assert!(extent.image() > extent.bytes && extent.image().is_multiple_of(MIB));
    }
}
