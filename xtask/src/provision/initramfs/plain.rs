//! The RAM disk with nothing but busybox, which init starts a shell from.

use std::path::Path;

use super::{with_busybox, write};
use crate::error::Result;
use crate::provision::busybox::Busybox;
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

/// Puts the finished RAM disk at `place`.
///
/// # Errors
/// When it cannot be written.
pub fn build(busybox: &Busybox, place: &Path) -> Result<()> {
    let step = Step::start("Building the busybox initial RAM disk");
    let mut archive = with_busybox(busybox);
    archive.file("etc/inittab", 0o644, INITTAB.as_bytes());
    archive.file("etc/rc", 0o755, RC.as_bytes());
    archive.symlink("init", "bin/busybox");
    let size = write(archive, place)?;
    step.done(&format!("{} KiB", size / 1024));
    Ok(())
}
