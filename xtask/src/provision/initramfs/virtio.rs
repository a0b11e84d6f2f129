//! The RAM disk that loads a kernel's virtio modules, brings up the network, and goes on to a disk when told to.

use std::path::Path;

use super::{with_busybox, write};
use crate::error::Result;
use crate::provision::busybox::Busybox;
use crate::provision::kernel::{DEFAULT_KERNEL, Kernel};
use crate::provision::modules::Modules;
use crate::ui::Step;

const INIT: &str = include_str!("init.sh");
/// Lists the modules in loading order.
const LIST: &str = "etc/modules";
const MODULES: &str = "lib/modules";
/// What `acpid` runs when the power button was pressed.
const POWER_BUTTON: &str = "\
#!/bin/sh
exec poweroff
";

/// The file name among the payloads of the one for `kernel`: the default kernel's has no suffix.
#[must_use]
pub fn name(kernel: Kernel) -> String {
    match kernel.payload.strip_prefix("vmlinuz-") {
        Some(suffix) if kernel.payload != DEFAULT_KERNEL => format!("initrd-virtio-{suffix}.img"),
        _ => "initrd-virtio.img".to_owned(),
    }
}

/// The file name among the payloads of the one that loads the driver of a real network card too. Its kernel is
/// [`Kernel::with_drivers`].
pub const CARD: &str = "initrd-nic-6.1.img";

/// Puts the finished RAM disk at `place`.
///
/// # Errors
/// When a module cannot be read or the file cannot be written.
pub fn build(busybox: &Busybox, modules: &Modules, place: &Path) -> Result<()> {
    let step = Step::start(format!(
        "Building the initial RAM disk with modules of {}",
        modules.release()
    ));
    let mut archive = with_busybox(busybox);
    for directory in ["disk", "etc/acpi", "etc/acpi/PWRF", "lib", MODULES] {
        archive.directory(directory);
    }
    let mut list = String::new();
    for module in modules.devices()? {
        let file = module
            .path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        archive.file(&format!("{MODULES}/{file}"), 0o644, &module.content);
        list.push_str(&file);
        list.push('\n');
    }
    archive.file(LIST, 0o644, list.as_bytes());
    archive.file("etc/acpi/PWRF/00000080", 0o755, POWER_BUTTON.as_bytes());
    archive.file("init", 0o755, INIT.as_bytes());
    let size = write(archive, place)?;
    step.done(&format!(
        "{} KiB, {} modules",
        size / 1024,
        list.lines().count()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provision::kernel::KERNELS;

    #[test]
    fn each_kernel_has_one_of_its_own() {
        let names = KERNELS.map(name);
        assert_eq!(
            names,
            [
                "initrd-virtio.img",
                "initrd-virtio-6.1.img",
                "initrd-virtio-6.12-cloud.img",
                "initrd-virtio-6.12.img"
            ]
        );
    }

    #[test]
    fn init_finds_what_is_put_into_the_archive() {
        for used in [LIST, MODULES, "/bin/shell", "/disk"] {
            assert!(INIT.contains(used), "{used}");
        }
    }
}
