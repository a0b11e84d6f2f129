//! Debian's kernels, taken unchanged out of their packages.

use std::fs;
use std::path::Path;

use crate::error::{Error, IoContext, Result};
use crate::paths::{Workspace, fresh_dir};
use crate::provision::apt::{self, PrivateApt};
use crate::ui::Step;

/// Where the version string's place is told, which is relative to [`SETUP_HEADER`].
const VERSION_POINTER: usize = 0x20e;
const SETUP_HEADER: usize = 0x200;

/// A kernel that can be fetched by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// Its file name among the payloads.
    pub payload: &'static str,
    /// The metapackage that always depends on the current build.
    metapackage: &'static str,
    /// The Debian suite.
    pub(super) suite: &'static str,
    /// What the name of the real package starts with.
    prefix: &'static str,
}

/// The payload name of the kernel that the demo and the Debian disk run.
pub const DEFAULT_KERNEL: &str = "vmlinuz-6.1-cloud";

/// Every kernel this tool knows: Debian 12's own and its backport, in both flavours.
pub const KERNELS: [Kernel; 4] = [
    Kernel {
        payload: DEFAULT_KERNEL,
        metapackage: "linux-image-cloud-amd64",
        suite: "bookworm",
        prefix: "linux-image-6.1.",
    },
    Kernel {
        payload: "vmlinuz-6.1",
        metapackage: "linux-image-amd64",
        suite: "bookworm",
        prefix: "linux-image-6.1.",
    },
    Kernel {
        payload: "vmlinuz-6.12-cloud",
        metapackage: "linux-image-cloud-amd64",
        suite: "bookworm-backports",
        prefix: "linux-image-6.12.",
    },
    Kernel {
        payload: "vmlinuz-6.12",
        metapackage: "linux-image-amd64",
        suite: "bookworm-backports",
        prefix: "linux-image-6.12.",
    },
];

impl Kernel {
    /// The kernel that [`DEFAULT_KERNEL`] names.
    #[must_use]
    pub fn by_default() -> Self {
        let [first, ..] = KERNELS;
        first
    }

    /// Debian 12's own kernel that has drivers for real devices.
    #[must_use]
    pub fn with_drivers() -> Self {
        let [_, generic, ..] = KERNELS;
        generic
    }

    /// Fetches the kernel's package and puts its image at `place`.
    ///
    /// # Errors
    /// When the package cannot be had or holds no kernel.
    pub(super) fn fetch(self, workspace: &Workspace, place: &Path) -> Result<()> {
        let step = Step::start(format!(
            "Fetching {} from {} of {}",
            self.payload, self.metapackage, self.suite
        ));
        let apt = PrivateApt::open(
            &workspace.cache(),
            "kernels",
            &["bookworm", "bookworm-backports"],
        )?;
        let package = apt.dependency(self.metapackage, self.suite, self.prefix)?;
        step.detail(&package);
        let file = apt.download(&package, self.suite)?;
        let tree = fresh_dir(workspace.cache().join("kernel.partial"))?;
        apt::unpack(&[file], &tree)?;
        let image = tree.join("boot").join(image_name(&package));
        if !image.is_file() {
            return Err(Error::Unavailable {
                what: format!("{package} holds no /boot/{}", image_name(&package)),
                hint: "the package has changed its shape; report it".to_owned(),
            });
        }
        fs::rename(&image, place).context("move", &image)?;
        fs::remove_dir_all(&tree).context("remove", &tree)?;
        apt.discard()?;
        step.done(&package);
        Ok(())
    }

    /// What `uname -r` says on this kernel, whose payload is at `image`.
    ///
    /// # Errors
    /// When the image cannot be read or does not say.
    pub(super) fn release(self, image: &Path) -> Result<String> {
        let bytes = fs::read(image).context("read", image)?;
        release_in(&bytes).ok_or_else(|| Error::Unavailable {
            what: format!("{} does not say which release it is", image.display()),
            hint: "delete it to fetch it again".to_owned(),
        })
    }
}

/// The first word of the version string in a kernel's header; see "The Linux/x86 Boot Protocol", `kernel_version`.
fn release_in(image: &[u8]) -> Option<String> {
    let pointer = image.get(VERSION_POINTER..VERSION_POINTER + 2)?;
    let start = SETUP_HEADER + usize::from(u16::from_le_bytes(pointer.try_into().ok()?));
    let word = image
        .get(start..)?
        .split(|byte| !byte.is_ascii_graphic())
        .next()?;
    let text = std::str::from_utf8(word).ok()?;
    (!text.is_empty()).then(|| text.to_owned())
}

/// The kernel image that the package `linux-image-VERSION` installs.
fn image_name(package: &str) -> String {
    let version = package.strip_prefix("linux-image-").unwrap_or(package);
    format!("vmlinuz-{version}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_named_after_its_package() {
        assert_eq!(
            image_name("linux-image-6.1.0-38-cloud-amd64"),
            "vmlinuz-6.1.0-38-cloud-amd64"
        );
    }

    #[test]
    fn the_release_is_the_first_word_of_the_version() {
        let mut image = vec![0; 0x400];
        image[VERSION_POINTER..VERSION_POINTER + 2].copy_from_slice(&0x100_u16.to_le_bytes());
        image[0x300..0x310].copy_from_slice(b"6.1.0-9-x (who) ");
        assert_eq!(release_in(&image).as_deref(), Some("6.1.0-9-x"));
        assert_eq!(release_in(&image[..VERSION_POINTER]), None);
        assert_eq!(release_in(&[0; 0x400]), None);
    }
}
