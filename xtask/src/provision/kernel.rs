//! Debian's kernels, taken unchanged out of their packages.

use std::fs;
use std::path::Path;

use crate::error::{Error, IoContext, Result};
use crate::paths::{Workspace, fresh_dir};
use crate::provision::apt::{self, PrivateApt};
use crate::ui::Step;

/// A kernel that can be fetched by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// Its file name among the payloads.
    pub payload: &'static str,
    /// The metapackage that always depends on the current build.
    metapackage: &'static str,
    /// The Debian suite.
    suite: &'static str,
    /// What the name of the real package starts with.
    prefix: &'static str,
}

/// Every kernel this tool knows: Debian 12's own and its backport, in both flavours.
pub const KERNELS: [Kernel; 4] = [
    Kernel {
        payload: "vmlinuz-6.1-cloud",
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
    /// The kernel whose payload name is `payload`.
    #[must_use]
    pub fn by_name(payload: &str) -> Option<Self> {
        KERNELS.into_iter().find(|kernel| kernel.payload == payload)
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
}
