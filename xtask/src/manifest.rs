//! A manifest as a run sees it: checked by the parser that runs at boot, and the payloads it names.

use std::path::{Path, PathBuf};

use bulkhead_manifest::Plan;

use crate::cmd;
use crate::error::Result;

/// The manifest of `cargo xtask run` without options, relative to the checkout.
pub const DEMO: &str = "docs/examples/demo.toml";

/// A payload that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The key, such as `vm[0].kernel`.
    pub key: String,
    /// The path, relative to the manifest.
    pub name: String,
}

/// A manifest that was read and found right.
#[derive(Debug, Clone)]
pub struct Manifest {
    path: PathBuf,
    plan: Plan,
}

impl Manifest {
    /// Reads and checks the manifest at `path`.
    ///
    /// # Errors
    /// [`crate::Error::Manifest`] with every finding when it is wrong.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_path_buf(),
            plan: cmd::manifest::read(path)?,
        })
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it asks for.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Every payload it names, in its order.
    #[must_use]
    pub fn payloads(&self) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for (index, vm) in self.plan.vms.iter().enumerate() {
            let mut add = |key: &str, path: &str| {
                wanted.push(Wanted {
                    key: format!("vm[{index}].{key}"),
                    name: path.to_owned(),
                });
            };
            add("kernel", vm.kernel.path.as_str());
            if let Some(initrd) = &vm.initrd {
                add("initrd", initrd.path.as_str());
            }
            for (disk_index, disk) in vm.disks.iter().enumerate() {
                add(
                    &format!("disk[{disk_index}].image"),
                    disk.image.path.as_str(),
                );
            }
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Workspace;

    #[test]
    fn the_demo_names_a_kernel_and_an_initial_ram_disk() {
        let manifest = Manifest::read(&Workspace::locate().root().join(DEMO)).unwrap();
        let keys: Vec<_> = manifest
            .payloads()
            .into_iter()
            .map(|wanted| wanted.key)
            .collect();
        assert_eq!(keys, ["vm[0].kernel", "vm[0].initrd"]);
    }

    #[test]
    fn the_images_of_disks_are_payloads() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "version = 1\n[[vm]]\nname = \"demo\"\nkernel = \"vmlinuz\"\nmemory = \"64M\"\n\
            disk = [{ image = \"root.img\" }, { image = { path = \"data.img\" }, mode = \"read-only\" }]\n";
        std::fs::write(file.path(), text).unwrap();
        let wanted = Manifest::read(file.path()).unwrap().payloads();
        let wanted: Vec<_> = wanted
            .iter()
            .map(|wanted| (wanted.key.as_str(), wanted.name.as_str()))
            .collect();
        assert_eq!(
            wanted,
            [
                ("vm[0].kernel", "vmlinuz"),
                ("vm[0].disk[0].image", "root.img"),
                ("vm[0].disk[1].image", "data.img"),
            ]
        );
    }

    #[test]
    fn a_missing_manifest_is_a_bad_call() {
        assert_eq!(
            Manifest::read(Path::new("no-such.toml"))
                .unwrap_err()
                .exit_code(),
            2
        );
    }
}
