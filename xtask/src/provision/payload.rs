//! Payloads by name: what a manifest may name without the file lying beside it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{IoContext, Result};
use crate::paths::{Workspace, create_dir};
use crate::provision::busybox::Busybox;
use crate::provision::kernel::{KERNELS, Kernel};
use crate::provision::modules::{Guest, Modules};
use crate::provision::{CacheLock, debian, initramfs, kselftest};

/// A payload that can be provided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// One of Debian's kernels.
    Kernel(Kernel),
    /// The RAM disk with busybox alone.
    Busybox,
    /// The RAM disk with a kernel's virtio modules.
    Virtio(Kernel),
    /// The RAM disk with the driver of a real network card besides.
    Card,
    /// The disk with a minimal Debian.
    Debian,
    /// The kernel's tests of its entry code, to be put behind a RAM disk.
    Kselftest,
}

/// Puts a payload at the path it is given, with everything at hand that needed fetching first.
type Recipe<'a> = Box<dyn FnOnce(&Path) -> Result<()> + 'a>;

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
    let Some(known) = Known::all().find(|known| known.name() == name) else {
        return Ok(None);
    };
    create_dir(workspace.payloads())?;
    // Takes the lock for each thing it fetches, so it cannot be held yet.
    let recipe = known.recipe(workspace)?;
    let _lock = CacheLock::take(workspace)?;
    if place.is_file() {
        return Ok(Some(place));
    }
    let partial = workspace.payloads().join(format!(".{name}.partial"));
    recipe(&partial)?;
    fs::rename(&partial, &place).context("rename", &partial)?;
    Ok(Some(place))
}

/// Every payload that [`find`] can provide besides the test guests.
pub fn known() -> impl Iterator<Item = String> {
    Known::all().map(Known::name)
}

impl Known {
    fn all() -> impl Iterator<Item = Self> {
        KERNELS
            .into_iter()
            .map(Self::Kernel)
            .chain([Self::Busybox])
            .chain(KERNELS.into_iter().map(Self::Virtio))
            .chain([Self::Card, Self::Debian, Self::Kselftest])
    }

    fn name(self) -> String {
        match self {
            Self::Kernel(kernel) => kernel.payload.to_owned(),
            Self::Busybox => initramfs::PLAIN.to_owned(),
            Self::Virtio(kernel) => initramfs::virtio_name(kernel),
            Self::Card => initramfs::CARD.to_owned(),
            Self::Debian => debian::PAYLOAD.to_owned(),
            Self::Kselftest => kselftest::PAYLOAD.to_owned(),
        }
    }

    /// Fetches what this payload is made of, and says how.
    fn recipe(self, workspace: &Workspace) -> Result<Recipe<'_>> {
        Ok(match self {
            Self::Kernel(kernel) => Box::new(move |place| kernel.fetch(workspace, place)),
            Self::Busybox => {
                let busybox = Busybox::provision(workspace)?;
                Box::new(move |place| initramfs::build_plain(&busybox, place))
            }
            Self::Virtio(kernel) => with_modules(workspace, kernel, Guest::Virtual)?,
            Self::Card => with_modules(workspace, Kernel::with_drivers(), Guest::WithCard)?,
            Self::Debian => {
                let modules = Modules::provision(workspace, Kernel::by_default(), Guest::Virtual)?;
                let tools = debian::Tools::provision(workspace)?;
                Box::new(move |place| debian::build(workspace, &tools, &modules, place))
            }
            Self::Kselftest => Box::new(move |place| kselftest::build(workspace, place)),
        })
    }
}

/// A RAM disk that loads modules of `kernel`.
fn with_modules(workspace: &Workspace, kernel: Kernel, guest: Guest) -> Result<Recipe<'_>> {
    let modules = Modules::provision(workspace, kernel, guest)?;
    let busybox = Busybox::provision(workspace)?;
    Ok(Box::new(move |place| {
        initramfs::build_virtio(&busybox, &modules, place)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn an_unknown_name_is_not_provided() {
        assert_eq!(find(&Workspace::locate(), "vmlinuz-0.99").unwrap(), None);
    }

    #[test]
    fn every_payload_has_a_name_of_its_own() {
        let names: BTreeSet<_> = known().collect();
        assert_eq!(names.len(), known().count());
        for name in ["vmlinuz-6.1-cloud", "initrd-virtio.img", "debian-12.img"] {
            assert!(names.contains(name), "{name}");
        }
    }
}
