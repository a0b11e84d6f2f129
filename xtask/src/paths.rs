//! Where things lie: sources, build outputs, caches, payloads, runs.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{IoContext, Result};

/// The checkout this tool was built from, and the directories it keeps below `target/`.
#[derive(Debug, Clone)]
pub struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The workspace that holds this crate.
    #[must_use]
    pub fn locate() -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self {
            root: here.parent().unwrap_or(here).to_path_buf(),
        }
    }

    /// The top of the checkout.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's output directory; follows `CARGO_TARGET_DIR`.
    #[must_use]
    pub fn cargo_target(&self) -> PathBuf {
        match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) if !dir.is_empty() => self.root.join(dir),
            _ => self.root.join("target"),
        }
    }

    /// Emulators and package lists; safe to delete, refilled from the network.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.root.join("target/cache")
    }

    /// Kernels, initial RAM disks and test guests that manifests may name.
    #[must_use]
    pub fn payloads(&self) -> PathBuf {
        self.root.join("target/payloads")
    }

    /// The directory of one run, created when missing: disk image, logs, events.
    ///
    /// # Errors
    /// When the directory cannot be created.
    pub fn run_dir(&self, name: &str) -> Result<PathBuf> {
        create_dir(self.root.join("target/run").join(name))
    }

    /// `path` relative to the checkout, for messages.
    #[must_use]
    pub fn show(&self, path: &Path) -> String {
        path.strip_prefix(&self.root)
            .unwrap_or(path)
            .display()
            .to_string()
    }
}

/// Creates `path` and its parents, and hands it back.
///
/// # Errors
/// When the directory cannot be created.
pub fn create_dir(path: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&path).context("create", &path)?;
    Ok(path)
}

/// Creates `path` empty: what a killed process left there is removed first.
///
/// # Errors
/// When the leftover cannot be removed or the directory cannot be created.
pub fn fresh_dir(path: PathBuf) -> Result<PathBuf> {
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).context("remove", &path),
        _ => create_dir(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_directory_holds_nothing_of_an_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("a/b");
        fresh_dir(place.clone()).unwrap();
        fs::write(place.join("left"), "over").unwrap();
        fresh_dir(place.clone()).unwrap();
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
    }
}
