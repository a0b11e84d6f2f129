//! Payloads by name: what a manifest may name without the file lying beside it.

use std::fs;
use std::path::PathBuf;

use crate::error::{IoContext, Result};
use crate::paths::{Workspace, create_dir};
use crate::provision::kernel::{KERNELS, Kernel};
use crate::provision::{CacheLock, initramfs};

/// The payload called `name`, fetched or built when it is a known one that is not there yet.
///
/// `None` says that no payload has this name.
///
/// # Errors
/// When a known payload cannot be fetched or built.
pub fn find(workspace: &Workspace, name: &str) -> Result<Option<PathBuf>> {
    let place = workspace.payloads().join(name);
    if place.is_file() {
        return Ok(Some(place));
    }
    let kernel = Kernel::by_name(name);
    if kernel.is_none() && name != initramfs::PAYLOAD {
        return Ok(None);
    }
    create_dir(workspace.payloads())?;
    let _lock = CacheLock::take(workspace)?;
    if place.is_file() {
        return Ok(Some(place));
    }
    let partial = workspace.payloads().join(format!(".{name}.partial"));
    match kernel {
        Some(kernel) => kernel.fetch(workspace, &partial)?,
        None => initramfs::build(workspace, &partial)?,
    }
    fs::rename(&partial, &place).context("rename", &partial)?;
    Ok(Some(place))
}

/// Every payload that [`find`] can provide besides the test guests.
pub fn known() -> impl Iterator<Item = &'static str> {
    KERNELS
        .iter()
        .map(|kernel| kernel.payload)
        .chain([initramfs::PAYLOAD])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_not_provided() {
        assert_eq!(find(&Workspace::locate(), "vmlinuz-0.99").unwrap(), None);
        assert_eq!(known().count(), 5);
    }
}
