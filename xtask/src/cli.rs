//! Arguments and dispatch.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use regex::Regex;
use xtask::cmd::{
    self, bench::BenchArgs, image::ImageArgs, manifest::ManifestCommand, test::TestArgs,
};
use xtask::platform::Platform;
use xtask::session::Keys;
use xtask::{Error, Result, Workspace, build, run, ui};

const EXIT_CODES: &str = "Exit codes: 0 success, 1 failure or time-out, 2 bad call or manifest.";

/// Build, run, test and package the Bulkhead hypervisor.
///
/// Whatever is missing is fetched on first use: emulators and kernels into `target/`, Rust targets into the
/// toolchain, through rustup. After that no network is needed.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot a manifest's guests in an emulator, with their console on this terminal.
    #[command(after_help = EXIT_CODES)]
    Run(RunArgs),
    /// Build bulkhead.efi and the test guests.
    Build,
    /// Write a bootable USB disk image or a TFTP directory.
    Image(ImageArgs),
    /// Run the unit tests and the end-to-end scenarios.
    Test(TestArgs),
    /// Measure what exits cost, beside KVM and Xen on the same emulator.
    Bench(BenchArgs),
    /// Work with manifests.
    #[command(subcommand)]
    Manifest(ManifestCommand),
    /// Say what this machine has and lacks, and which platform a run would choose.
    Doctor,
}

/// The platforms as words of the command line.
#[derive(Clone, Copy, ValueEnum)]
enum PlatformArg {
    /// The best one this machine has.
    Auto,
    /// QEMU with KVM; needs VT-x that nests.
    Kvm,
    /// Bochs, which emulates VT-x.
    Bochs,
    /// QEMU's emulation: VT-d and PXE, but no VT-x.
    QemuTcg,
}

impl PlatformArg {
    fn platform(self) -> Option<Platform> {
        match self {
            Self::Auto => None,
            Self::Kvm => Some(Platform::Kvm),
            Self::Bochs => Some(Platform::Bochs),
            Self::QemuTcg => Some(Platform::QemuTcg),
        }
    }
}

#[derive(Args)]
struct RunArgs {
    /// The manifest to boot [default: docs/examples/demo.toml].
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// Where to run.
    #[arg(long, value_enum, default_value_t = PlatformArg::Auto)]
    platform: PlatformArg,
    /// Processors of the machine [default: as many as the manifest needs].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: Option<u32>,
    /// Memory of the machine, such as 2G or 768M [default: what the manifest needs, at least 2G].
    #[arg(long, value_name = "SIZE", value_parser = memory_mib)]
    memory: Option<u64>,
    /// Only print the console; do not connect the keyboard.
    #[arg(long)]
    headless: bool,
    /// Exit with 0 as soon as the console's output matches REGEX.
    ///
    /// With --send, only output after the last typed line counts. Escape sequences and carriage returns are not seen.
    #[arg(long, value_name = "REGEX")]
    until: Option<Regex>,
    /// Type TEXT and Enter at the next prompt; may be repeated.
    ///
    /// `\xNN` in TEXT is the key with that code (`\x1d` is Ctrl-]), `\r` is Enter, `\\` is a backslash. No Enter is added after one
    /// at the end.
    #[arg(long, value_name = "TEXT", value_parser = Keys::parse)]
    send: Vec<Keys>,
    /// Give up, with exit code 1, after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Also write the console's text to FILE.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Boot over the network by PXE instead of from a disk (kvm and qemu-tcg).
    #[arg(long)]
    pxe: bool,
    /// Use this hypervisor binary instead of building it.
    #[arg(long, value_name = "FILE")]
    efi: Option<PathBuf>,
}

/// Parses the command line and runs it.
pub fn main() -> ExitCode {
    let workspace = Workspace::locate();
    let done = match Cli::parse().command {
        Command::Run(args) => run::run(&workspace, &args.options()),
        Command::Build => build_all(&workspace),
        Command::Image(args) => cmd::image::run(&workspace, &args),
        Command::Test(args) => cmd::test::run(&workspace, &args),
        Command::Bench(args) => cmd::bench::run(&workspace, &args),
        Command::Manifest(command) => cmd::manifest::run(&command),
        Command::Doctor => cmd::doctor::run(&workspace),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Its last line is the total.
        Err(error @ Error::TestsFailed) => ExitCode::from(error.exit_code()),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

impl RunArgs {
    fn options(self) -> run::Options {
        run::Options {
            manifest: self.manifest,
            platform: self.platform.platform(),
            cpus: self.cpus,
            memory_mib: self.memory,
            headless: self.headless,
            until: self.until,
            send: self.send,
            timeout: self.timeout.map(Duration::from_secs),
            log: self.log,
            pxe: self.pxe,
            efi: self.efi,
        }
    }
}

fn build_all(workspace: &Workspace) -> Result<()> {
    let efi = build::hypervisor(workspace)?;
    ui::note(&efi.display().to_string());
    for guest in build::guests(workspace)? {
        ui::note(&workspace.show(&guest));
    }
    Ok(())
}

/// Reads a size such as `2G` or `768M` as MiB.
fn memory_mib(text: &str) -> std::result::Result<u64, String> {
    let (number, scale) = match text.as_bytes().last() {
        Some(b'G' | b'g') => (&text[..text.len() - 1], 1024),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1),
        _ => return Err("expected a size with its unit, such as 2G or 768M".to_owned()),
    };
    let number: u64 = number.parse().map_err(|e| format!("{e}"))?;
    let mib = number.checked_mul(scale).ok_or("too large")?;
    if mib < 64 {
        Err("at least 64M are needed".to_owned())
    } else {
        Ok(mib)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_need_a_unit() {
        assert_eq!(memory_mib("2G"), Ok(2048));
        assert_eq!(memory_mib("768m"), Ok(768));
        assert!(
            memory_mib("2048").is_err() && memory_mib("G").is_err() && memory_mib("1M").is_err()
        );
        assert!(memory_mib("99999999999999999G").is_err());
    }
}
