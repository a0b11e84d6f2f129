//! A manifest as the tool sees it: checked by the hypervisor's own parser, and the payloads it names.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, IoContext, Result};

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
    payloads: Vec<Wanted>,
}

impl Manifest {
    /// Reads and checks the manifest at `path`.
    ///
    /// # Errors
    /// [`Error::Manifest`] with every finding when it is wrong.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .context("read", path)
            .map_err(|error| Error::Manifest(error.to_string()))?;
        let table: toml::Table = text
            .parse()
            .map_err(|e: toml::de::Error| Error::Manifest(format!("{}: {e}", path.display())))?;
        Ok(Self {
            path: path.to_path_buf(),
            payloads: payloads(&table),
        })
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every payload it names, in its order.
    #[must_use]
    pub fn payloads(&self) -> &[Wanted] {
        &self.payloads
    }
}

fn payloads(table: &toml::Table) -> Vec<Wanted> {
    let vms = table.get("vm").and_then(toml::Value::as_array);
    let mut wanted = Vec::new();
    for (index, vm) in vms.into_iter().flatten().enumerate() {
        for key in ["kernel", "initrd"] {
            if let Some(name) = vm.get(key).and_then(toml::Value::as_str) {
                wanted.push(Wanted {
                    key: format!("vm[{index}].{key}"),
                    name: name.to_owned(),
                });
            }
        }
    }
    wanted
}
