//! Arguments and dispatch.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use xtask::image::{self, Boot};
use xtask::manifest::{self, Manifest};
use xtask::{Error, Result, Workspace, build, ui};

/// Build, run, test and package Bulkhead.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build bulkhead.efi and the test guests.
    Build,
    /// Write a bootable USB disk image or a TFTP directory.
    Image(ImageArgs),
}

#[derive(Args)]
struct ImageArgs {
    /// Write a disk image for `dd` to FILE.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "pxe",
        required_unless_present = "pxe"
    )]
    usb: Option<PathBuf>,
    /// Fill DIR for a TFTP server.
    #[arg(long, value_name = "DIR")]
    pxe: Option<PathBuf>,
    /// Use this hypervisor binary instead of building it.
    #[arg(long, value_name = "FILE")]
    efi: Option<PathBuf>,
    /// The manifest to boot with [default: the demo's].
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
}

/// Parses the command line and runs it.
pub fn main() -> ExitCode {
    let workspace = Workspace::locate();
    let done = match Cli::parse().command {
        Command::Build => build_all(&workspace),
        Command::Image(args) => make_image(&workspace, &args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn build_all(workspace: &Workspace) -> Result<()> {
    let built = build::hypervisor(workspace)?;
    ui::note(&built.efi.display().to_string());
    for guest in build::guests(workspace)? {
        ui::note(&workspace.show(&guest));
    }
    Ok(())
}

fn make_image(workspace: &Workspace, args: &ImageArgs) -> Result<()> {
    let path = args
        .manifest
        .clone()
        .unwrap_or_else(|| workspace.root().join(manifest::DEMO));
    let manifest = Manifest::read(&path)?;
    let efi = match &args.efi {
        Some(file) => file.clone(),
        None => build::hypervisor(workspace)?.efi,
    };
    let boot = Boot::gather(workspace, &efi, &manifest)?;
    match (&args.usb, &args.pxe) {
        (Some(file), _) => {
            let size = image::usb(&boot, file)?;
            ui::note(&format!("{}: {} MiB", file.display(), size >> 20));
        }
        (None, Some(dir)) => image::pxe(&boot, dir)?,
        (None, None) => return Err(Error::BadCall("give --usb or --pxe".to_owned())),
    }
    Ok(())
}
