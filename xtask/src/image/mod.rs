//! What the machine boots from: a USB disk image or a TFTP directory, with the same files in both.
//!
//! [`Boot::gather`] finds the hypervisor, the manifest and every payload it names; [`usb`] and [`pxe`]
//! lay them out as the hypervisor expects them: `/EFI/BOOT/BOOTX64.EFI` (USB) or `bulkhead.efi` (TFTP),
//! `bulkhead/bulkhead.toml`, and the payloads beside the manifest at the paths it names.

mod esp;
mod fat32;
mod gpt;
mod name;

use std::fs;
use std::path::{Path, PathBuf};

use crate::build;
use crate::error::{Error, IoContext, Result};
use crate::manifest::Manifest;
use crate::paths::{Workspace, create_dir};
use crate::provision::payload;

/// The directory of manifest and payloads on a boot medium.
const HOME: &str = "bulkhead";

/// One file of a boot medium.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its path on the medium, with `/` between the parts.
    pub path: String,
    /// Where its content comes from.
    pub source: PathBuf,
}

/// Everything that a boot medium holds.
#[derive(Debug, Clone)]
pub struct Boot {
    efi: PathBuf,
    files: Vec<Entry>,
    written: Option<PathBuf>,
}

impl Boot {
    /// Collects `efi` (the built hypervisor), the manifest, and every payload the manifest names.
    ///
    /// # Errors
    /// When a payload is neither beside the manifest nor one that can be provided.
    pub fn gather(workspace: &Workspace, efi: &Path, manifest: &Manifest) -> Result<Self> {
        let mut files = vec![Entry {
            path: format!("{HOME}/bulkhead.toml"),
            source: manifest.path().to_path_buf(),
        }];
        let guests = build::guest_names(workspace)?;
        if manifest.payloads().iter().any(|wanted| {
            guests
                .iter()
                .any(|guest| wanted.name == build::guest_payload(guest))
        }) {
            build::guests(workspace)?;
        }
        let beside = manifest.path().parent().unwrap_or(Path::new("."));
        for wanted in manifest.payloads() {
            let path = format!("{HOME}/{}", wanted.name);
            if files.iter().any(|entry| entry.path == path) {
                continue;
            }
            let near = beside.join(&wanted.name);
            let source = if near.is_file() {
                Some(near.clone())
            } else {
                payload::find(workspace, &wanted.name)?
            };
            let source = source.ok_or_else(|| Error::Payload {
                manifest: manifest.path().to_path_buf(),
                key: wanted.key.clone(),
                name: wanted.name.clone(),
                tried: vec![near, workspace.payloads().join(&wanted.name)],
            })?;
            files.push(Entry { path, source });
        }
        Ok(Self {
            efi: efi.to_path_buf(),
            files,
            written: None,
        })
    }

    /// What the hypervisor reads into memory for `manifest`: every payload, as often as it is named.
    #[must_use]
    pub fn payload_bytes(&self, manifest: &Manifest) -> u64 {
        let size = |name: &str| {
            let path = format!("{HOME}/{name}");
            let entry = self.files.iter().find(|entry| entry.path == path)?;
            Some(fs::metadata(&entry.source).ok()?.len())
        };
        let payloads = manifest.payloads();
        payloads
            .iter()
            .filter_map(|wanted| size(&wanted.name))
            .sum()
    }

    /// The same with another hypervisor.
    #[must_use]
    pub fn with_efi(mut self, efi: &Path) -> Self {
        self.efi = efi.to_path_buf();
        self
    }

    /// Exactly `files` beside `efi`, whatever they are: for tests of what the hypervisor makes of bad ones.
    #[must_use]
    pub fn from_parts(efi: &Path, files: Vec<Entry>) -> Self {
        Self {
            efi: efi.to_path_buf(),
            files,
            written: None,
        }
    }

    /// The disk image at `file` that [`usb`] wrote before, which a run boots as it is: for tests of images alone.
    #[must_use]
    pub fn written(file: &Path) -> Self {
        Self {
            efi: PathBuf::new(),
            files: Vec::new(),
            written: Some(file.to_path_buf()),
        }
    }

    /// The files beside the hypervisor: the manifest first, then the payloads.
    #[must_use]
    pub fn files(&self) -> &[Entry] {
        &self.files
    }
}

/// Writes a disk image for `dd` to `file`: GPT, one FAT32 EFI system partition. Returns its size in bytes.
///
/// # Errors
/// When a source cannot be read or the image cannot be written.
pub fn usb(boot: &Boot, file: &Path) -> Result<u64> {
    if let Some(written) = &boot.written {
        return fs::copy(written, file).context("copy", written);
    }
    let mut entries = vec![Entry {
        path: "EFI/BOOT/BOOTX64.EFI".to_owned(),
        source: boot.efi.clone(),
    }];
    entries.extend_from_slice(&boot.files);
    let volume = esp::build(&entries)?;
    let mut name = file.as_os_str().to_os_string();
    name.push(".partial");
    let partial = PathBuf::from(name);
    let size = gpt::write(&volume, &partial)?;
    fs::rename(&partial, file).context("rename", &partial)?;
    Ok(size)
}

/// Fills the directory `dir` for a TFTP server.
///
/// # Errors
/// When a source cannot be read or the directory cannot be written.
pub fn pxe(boot: &Boot, dir: &Path) -> Result<()> {
    let loader = Entry {
        path: "bulkhead.efi".to_owned(),
        source: boot.efi.clone(),
    };
    for entry in boot.files.iter().chain([&loader]) {
        let place = dir.join(&entry.path);
        if let Some(parent) = place.parent() {
            create_dir(parent.to_path_buf())?;
        }
        fs::copy(&entry.source, &place).context("write", &place)?;
    }
    Ok(())
}
