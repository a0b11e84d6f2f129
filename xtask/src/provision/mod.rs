//! Everything a run needs that is not built from this checkout, fetched once into `target/`.
//!
//! A thing that is there is never fetched again and touches no network. Each is put together in a
//! temporary directory and renamed into place, so a directory that exists is complete. One process at a
//! time provisions: the others wait on the lock file.

pub mod apt;
pub mod bochs;
pub mod busybox;
pub mod code;
pub mod debian;
pub mod function;
pub mod idiv;
pub mod initramfs;
pub mod interrupts;
pub mod kernel;
pub mod kselftest;
pub mod modules;
pub mod payload;
pub mod qemu;
pub mod remapping;
pub mod swtpm;
pub mod syscalls;
pub mod targets;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::{IoContext, Result};
use crate::paths::{Workspace, create_dir, fresh_dir};
use crate::ui;

/// Holds the provisioning lock; released on drop.
#[derive(Debug)]
pub struct CacheLock {
    _file: File,
}

impl CacheLock {
    /// Takes the lock, waiting for another provisioning process to finish.
    ///
    /// # Errors
    /// When the lock file cannot be created or locked.
    pub fn take(workspace: &Workspace) -> Result<Self> {
        let path = create_dir(workspace.cache())?.join("lock");
        let file = File::create(&path).context("create", &path)?;
        if file.try_lock().is_err() {
            ui::note("another process is provisioning; waiting for it");
            file.lock().context("lock", &path)?;
        }
        Ok(Self { _file: file })
    }
}

/// The finished directory `place`, made by `fill` in a temporary directory beside it when it is not there.
///
/// # Errors
/// Whatever `fill` reports; the temporary directory is then removed.
pub fn once(
    workspace: &Workspace,
    place: &Path,
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    if place.exists() {
        return Ok(place.to_path_buf());
    }
    let _lock = CacheLock::take(workspace)?;
    if place.exists() {
        return Ok(place.to_path_buf());
    }
    let mut name = place.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    let partial = place.with_file_name(name);
    fresh_dir(partial.clone())?;
    let made =
        fill(&partial).and_then(|()| fs::rename(&partial, place).context("rename", &partial));
    if let Err(error) = made {
        // What matters is the first error; a leftover is removed by the next attempt.
        let _ = fs::remove_dir_all(&partial);
        return Err(error);
    }
    Ok(place.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn a_failed_fill_leaves_nothing_and_is_tried_again() {
        let workspace = Workspace::locate();
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("thing");
        let failed = once(&workspace, &place, |d| {
            fs::write(d.join("half"), "x").unwrap();
            Err(Error::Run("no".to_owned()))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        once(&workspace, &place, |d| {
            fs::write(d.join("whole"), "x").context("write", d)
        })
        .unwrap();
        assert!(place.join("whole").exists() && !place.join("half").exists());
        once(&workspace, &place, |_| {
            Err(Error::Run("must not be called".to_owned()))
        })
        .unwrap();
    }
}
