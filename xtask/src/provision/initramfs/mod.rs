//! Initial RAM disks with busybox as their user space. Both end in a root shell on the console.
//!
//! `plain` mounts the kernel's file systems and that is all: it works with every kernel. `virtio` is made for one
//! kernel, whose modules it loads: with it a guest uses its disks and its network. One of them loads the driver of a real
//! network card besides. An `overlay` adds files to either.

mod cpio;
mod overlay;
mod plain;
mod virtio;

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::error::{IoContext, Result};
use crate::provision::busybox::Busybox;
use cpio::Archive;

pub use overlay::{File, overlay};
pub use plain::{PAYLOAD as PLAIN, build as build_plain};
pub use virtio::{CARD, build as build_virtio, name as virtio_name};

/// Says where root's home is: the shell's prompt calls it `~`.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n";

/// Starts the shell at home, where busybox' own prompt reads `~ # `.
const SHELL: &str = "\
#!/bin/sh
export HOME=/root PATH=/bin:/sbin TERM=vt102
cd
exec sh -i
";

/// An archive with busybox under all its names, the shell's starter, and the directories that every system has.
fn with_busybox(busybox: &Busybox) -> Archive {
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
        archive.directory(directory);
    }
    archive.symlink("sbin", "bin");
    // The kernel opens it before anything can mount devtmpfs.
    archive.device("dev/console", 5, 1);
    archive.file("bin/busybox", 0o755, &busybox.program);
    for applet in &busybox.applets {
        archive.symlink(&format!("bin/{applet}"), "busybox");
    }
    archive.file("bin/shell", 0o755, SHELL.as_bytes());
    archive.file("etc/passwd", 0o644, PASSWD.as_bytes());
    archive
}

/// Writes `archive` to `place` as gzip, which every Debian kernel unpacks: the hypervisor keeps payloads in memory for
/// restarts. Returns the size in bytes.
fn write(archive: Archive, place: &Path) -> Result<usize> {
    let image = compress(&archive.finish()).context("compress", place)?;
    fs::write(place, &image).context("write", place)?;
    Ok(image.len())
}

fn compress(image: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(image)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn busybox() -> Busybox {
        Busybox {
            program: b"ELF".to_vec(),
            applets: vec!["sh".to_owned(), "poweroff".to_owned()],
        }
    }

    #[test]
    fn the_image_is_gzip() {
        assert!(compress(b"anything").unwrap().starts_with(&[0x1f, 0x8b]));
    }

    #[test]
    fn every_applet_is_there() {
        let image = with_busybox(&busybox()).finish();
        let text = String::from_utf8_lossy(&image);
        for name in [
            "bin/busybox\0",
            "bin/sh\0",
            "bin/poweroff\0",
            "dev/console\0",
        ] {
            assert!(text.contains(name), "{name:?}");
        }
    }
}
