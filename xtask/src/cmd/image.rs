//! `cargo xtask image`: the files a real machine boots from.

use std::path::PathBuf;

use clap::Args;

use crate::error::Result;
use crate::image::{self, Boot};
use crate::manifest::{self, Manifest};
use crate::paths::Workspace;
use crate::{build, ui};

/// Arguments of `image`.
#[derive(Debug, Args)]
pub struct ImageArgs {
    #[command(flatten)]
    target: Target,
    /// The manifest to boot with [default: docs/examples/demo.toml].
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Use this hypervisor binary instead of building it.
    #[arg(long, value_name = "FILE")]
    efi: Option<PathBuf>,
}

/// What to write; exactly one.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// Write a disk image for `dd` to FILE.
    #[arg(long, value_name = "FILE")]
    usb: Option<PathBuf>,
    /// Fill DIR for a TFTP server; the firmware's boot file is `bulkhead.efi`.
    #[arg(long, value_name = "DIR")]
    pxe: Option<PathBuf>,
}

/// Writes what `args` ask for.
///
/// # Errors
/// A bad manifest or a missing payload; a failure to build or to write.
pub fn run(workspace: &Workspace, args: &ImageArgs) -> Result<()> {
    let path = args
        .manifest
        .clone()
        .unwrap_or_else(|| workspace.root().join(manifest::DEMO));
    let manifest = Manifest::read(&path)?;
    let efi = build::hypervisor_at(workspace, args.efi.as_deref())?;
    let boot = Boot::gather(workspace, &efi, &manifest)?;
    build::hypervisor_or(workspace, args.efi.as_deref())?;
    if let Some(file) = &args.target.usb {
        let size = image::usb(&boot, file)?;
        ui::note(&format!(
            "{}: {} MiB, to be written to a USB stick with dd",
            file.display(),
            size >> 20
        ));
    }
    if let Some(dir) = &args.target.pxe {
        image::pxe(&boot, dir)?;
        ui::note(&format!(
            "{}: serve it over TFTP, boot file bulkhead.efi",
            dir.display()
        ));
    }
    Ok(())
}
