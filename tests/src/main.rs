//! The end-to-end harness: boots Bulkhead on an emulator, once a scenario, and checks what it says and does.
//!
//! `cargo xtask test` builds this and passes its arguments on. What is tested stands in [`scenarios`], one module a
//! subject; [`runner`] runs it two at a time; [`context`] and [`machine`] are what a scenario works with; [`lab`]
//! provides what all share; [`physical`] reads and writes a machine's memory from outside. Everything a run leaves (console, events, emulator log) is in `target/run/<scenario>/`.

mod context;
mod disk_tools;
mod forge;
mod kernel_log;
mod key_search;
mod lab;
mod machine;
mod manifest;
mod outcome;
mod physical;
mod program;
mod runner;
mod scenario;
mod scenarios;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use xtask::Workspace;
use xtask::platform::Platform;
use xtask::session::watch_signals;

use crate::lab::Lab;
use crate::scenario::{Ground, Selection};

/// Boots Bulkhead on emulators and checks what it says and does.
#[derive(Parser)]
struct Arguments {
    /// Run only scenarios whose name contains FILTER.
    filter: Option<String>,
    /// Run only scenarios of this platform.
    #[arg(long, value_enum, default_value_t = PlatformArg::Auto)]
    platform: PlatformArg,
    /// List the scenarios and run nothing.
    #[arg(long)]
    list: bool,
    /// Also run what takes long.
    #[arg(long)]
    long: bool,
    /// Use this hypervisor binary instead of building it.
    #[arg(long, value_name = "FILE")]
    efi: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum PlatformArg {
    Auto,
    Kvm,
    Bochs,
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

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Lists or runs what was asked for; whether everything passed.
fn run(arguments: &Arguments) -> xtask::Result<bool> {
    let workspace = Workspace::locate();
    let selection = Selection {
        filter: arguments.filter.as_deref(),
        platform: arguments.platform.platform(),
        long: arguments.long || arguments.list,
    };
    let mut chosen = scenarios::all(&workspace)?;
    chosen.retain(|scenario| selection.takes(scenario));
    if arguments.list {
        for scenario in &chosen {
            println!("{scenario}");
        }
        return Ok(true);
    }
    let grounds: Vec<Ground> = chosen.iter().map(|scenario| scenario.ground).collect();
    let payloads: Vec<&str> = chosen
        .iter()
        .filter(|scenario| scenario.ground.obstacle().is_none())
        .flat_map(|scenario| scenario.payloads)
        .copied()
        .collect();
    let lab = if chosen.is_empty() {
        None
    } else {
        Some(Lab::prepare(
            workspace,
            arguments.platform.platform(),
            arguments.efi.as_deref(),
            &grounds,
            &payloads,
        )?)
    };
    // Not before: while the lab is prepared a signal ends this process, and with it what it started.
    let interrupted = watch_signals()?;
    Ok(runner::run(lab.as_ref(), &chosen, &interrupted))
}
