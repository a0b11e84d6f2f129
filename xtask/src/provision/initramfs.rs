//! An initial RAM disk with nothing but busybox: mounts the kernel's file systems, then gives a shell.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::error::{IoContext, Result};
use crate::exec;
use crate::paths::{Workspace, fresh_dir};
use crate::provision::apt::{self, PrivateApt};
use crate::provision::cpio::Archive;
use crate::ui::Step;

/// Its file name among the payloads.
pub const PAYLOAD: &str = "initrd-busybox.img";

/// Tells busybox' init what to start: `/etc/rc` once, then a shell on the serial console for ever.
const INITTAB: &str = "\
::sysinit:/etc/rc
ttyS0::respawn:/bin/shell
::ctrlaltdel:/sbin/reboot
::shutdown:/bin/sync
";

const RC: &str = "\
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
hostname guest
";

/// Says where root's home is: the shell's prompt calls it `~`.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n";

/// Starts the shell at home, where busybox' own prompt reads `~ # `.
const SHELL: &str = "\
#!/bin/sh
export HOME=/root PATH=/bin:/sbin TERM=vt102
cd
exec sh -i
";

/// Fetches busybox and puts the finished RAM disk at `place`.
///
/// # Errors
/// When the package cannot be had.
pub(super) fn build(workspace: &Workspace, place: &Path) -> Result<()> {
    let step = Step::start("Building the busybox initial RAM disk");
    let apt = PrivateApt::open(&workspace.cache(), "busybox", &["bookworm"])?;
    let file = apt.download("busybox-static", "bookworm")?;
    let tree = fresh_dir(workspace.cache().join("busybox.partial"))?;
    apt::unpack(&[file], &tree)?;
    let binary = tree.join("bin/busybox");
    let busybox = fs::read(&binary).context("read", &binary)?;
    let list = exec::output(
        Command::new(&binary).arg("--list"),
        "the package's busybox does not run here",
    )?;
    let image = archive(&busybox, &String::from_utf8_lossy(&list));
    let image = compress(&image).context("compress", place)?;
    fs::write(place, &image).context("write", place)?;
    fs::remove_dir_all(&tree).context("remove", &tree)?;
    apt.discard()?;
    step.done(&format!("{} KiB", image.len() / 1024));
    Ok(())
}

/// As gzip, which every Debian kernel unpacks: the hypervisor keeps payloads in memory for restarts.
fn compress(image: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(image)?;
    encoder.finish()
}

fn archive(busybox: &[u8], applets: &str) -> Vec<u8> {
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
        archive.directory(directory);
    }
    archive.symlink("sbin", "bin");
    // The kernel opens it before `/etc/rc` can mount devtmpfs.
    archive.device("dev/console", 5, 1);
    archive.file("bin/busybox", 0o755, busybox);
    for applet in applets
        .lines()
        .filter(|name| !name.is_empty() && *name != "busybox")
    {
        archive.symlink(&format!("bin/{applet}"), "busybox");
    }
    archive.file("bin/shell", 0o755, SHELL.as_bytes());
    archive.file("etc/passwd", 0o644, PASSWD.as_bytes());
    archive.file("etc/inittab", 0o644, INITTAB.as_bytes());
    archive.file("etc/rc", 0o755, RC.as_bytes());
    archive.symlink("init", "bin/busybox");
    archive.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_gzip() {
        assert!(compress(b"anything").unwrap().starts_with(&[0x1f, 0x8b]));
    }

    #[test]
    fn the_archive_has_an_init_and_every_applet() {
        let image = archive(b"ELF", "busybox\nsh\npoweroff\n");
        let text = String::from_utf8_lossy(&image);
        for name in [
            "init\0",
            "bin/sh\0",
            "bin/poweroff\0",
            "etc/inittab\0",
            "dev/console\0",
        ] {
            assert!(text.contains(name), "{name:?}");
        }
        assert_eq!(
            text.matches("bin/busybox\0").count(),
            2,
            "the file and /init's target"
        );
    }
}
