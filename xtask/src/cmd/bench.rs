//! `cargo xtask bench`: what each exit costs in ticks, beside what peers cost on the same emulator.
//!
//! A bare-metal guest measures itself by its TSC on a machine of one CPU, where Bochs counts instructions: the
//! figures are the same run after run. A second run boots the demo and reads from the counters how much of Linux'
//! boot was spent in the hypervisor.

mod peers;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use regex::Regex;
use serde::Serialize;

use crate::error::{Error, IoContext, Result};
use crate::image::Boot;
use crate::manifest::{self, Manifest};
use crate::paths::{Workspace, create_dir};
use crate::platform::Platform;
use crate::session::events::Event;
use crate::session::{Config, Session};
use crate::ui::Step;
use crate::{build, symbolize};
use peers::{PEERS, Peer};

/// What the measuring guest is started with.
const MANIFEST: &str = "\
version = 1

[[vm]]
name = \"bench\"
kernel = \"bench.elf\"
memory = \"64M\"
";
const MEMORY_MIB: u64 = 1024;
const LIMIT: Duration = Duration::from_secs(600);
/// The most of Linux' boot that may be spent in the hypervisor, in percent.
const ROOT_SHARE_LIMIT: f64 = 2.0;

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Use this hypervisor binary instead of building it.
    #[arg(long, value_name = "FILE")]
    efi: Option<PathBuf>,
    /// Measure the exits only; do not boot Linux.
    #[arg(long)]
    exits_only: bool,
}

/// Ticks of one operation's round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Ticks {
    median: u64,
    min: u64,
    max: u64,
}

/// Where Linux' boot spent its ticks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct LinuxBoot {
    guest_ticks: u64,
    root_ticks: u64,
    idle_ticks: u64,
    root_percent: f64,
}

/// What `target/bench/exits.json` holds.
#[derive(Debug, Serialize)]
struct Report {
    platform: &'static str,
    exits: BTreeMap<String, Ticks>,
    peers: &'static [Peer],
    linux_boot: Option<LinuxBoot>,
}

/// Measures, prints the table, writes `target/bench/exits.json`.
///
/// # Errors
/// When a run fails, or a figure is missing or exceeds its limit.
pub fn run(workspace: &Workspace, args: &BenchArgs) -> Result<()> {
    let efi = build::hypervisor_or(workspace, args.efi.as_deref())?;
    let exits = measure_exits(workspace, &efi)?;
    let linux_boot = if args.exits_only {
        None
    } else {
        Some(measure_boot(workspace, &efi)?)
    };
    print!("{}", table(&exits));
    if let Some(boot) = &linux_boot {
        println!(
            "Linux' boot to its shell: {:.2} % of its ticks in the hypervisor ({} of {}; limit {ROOT_SHARE_LIMIT} %)",
            boot.root_percent,
            boot.root_ticks,
            boot.root_ticks + boot.guest_ticks + boot.idle_ticks
        );
    }
    let over = exceeded(&exits, linux_boot.as_ref());
    let place = create_dir(workspace.root().join("target/bench"))?.join("exits.json");
    let report = Report {
        platform: "bochs",
        exits,
        peers: PEERS,
        linux_boot,
    };
    let json =
        serde_json::to_string_pretty(&report).map_err(|error| Error::Run(error.to_string()))?;
    fs::write(&place, json + "\n").context("write", &place)?;
    println!("written to {}", workspace.show(&place));
    if over.is_empty() {
        Ok(())
    } else {
        Err(Error::Run(format!(
            "not within the limits: {}",
            over.join(", ")
        )))
    }
}

fn measure_exits(workspace: &Workspace, efi: &Path) -> Result<BTreeMap<String, Ticks>> {
    let file = workspace.run_dir("bench")?.join("bench.toml");
    fs::write(&file, MANIFEST).context("write", &file)?;
    let step = Step::start("Measuring exits in a bare-metal guest on Bochs");
    let mut session = start(workspace, "bench", efi, &file)?;
    let outcome = session.expect(&pattern(r"case bench: (ok|FAIL.*)\n")?, LIMIT);
    symbolize::explain(&session.console_text(), efi);
    let verdict = outcome?;
    if verdict.contains("FAIL") {
        return Err(session.failure(verdict.trim()));
    }
    let exits = parse(&session.console_text());
    if exits.is_empty() {
        return Err(session.failure("the guest printed no figures"));
    }
    step.done(&format!("{} operations", exits.len()));
    Ok(exits)
}

fn measure_boot(workspace: &Workspace, efi: &Path) -> Result<LinuxBoot> {
    let step = Step::start("Booting Linux to see how much of it the hypervisor takes");
    let mut session = start(
        workspace,
        "bench-linux",
        efi,
        &workspace.root().join(manifest::DEMO),
    )?;
    session.send_line("poweroff -f", LIMIT)?;
    let counters = session.expect_event(LIMIT, |event| event.name() == "counters")?;
    let boot = share(&counters).ok_or_else(|| session.failure("the counters lack ticks"))?;
    step.done(&format!("{:.2} % in the hypervisor", boot.root_percent));
    Ok(boot)
}

fn start(workspace: &Workspace, name: &str, efi: &Path, manifest: &Path) -> Result<Session> {
    let config = Config {
        name: name.to_owned(),
        emulator: Platform::Bochs.provision(workspace)?,
        boot: Boot::gather(workspace, efi, &Manifest::read(manifest)?)?,
        pxe: false,
        cpus: 1,
        memory_mib: MEMORY_MIB,
        fixed_clock: true,
    };
    Session::start(workspace, config, Box::new(|_| {}))
}

/// Reads the guest's lines `bench <name> <median> <min> <max>`.
fn parse(console: &str) -> BTreeMap<String, Ticks> {
    let line = |line: &str| {
        let mut words = line.strip_prefix("bench ")?.split_whitespace();
        let name = words.next()?.to_owned();
        let mut number = || words.next()?.parse().ok();
        Some((
            name,
            Ticks {
                median: number()?,
                min: number()?,
                max: number()?,
            },
        ))
    };
    console.lines().filter_map(line).collect()
}

fn share(counters: &Event) -> Option<LinuxBoot> {
    let [guest_ticks, root_ticks, idle_ticks] =
        ["guest_ticks", "root_ticks", "idle_ticks"].map(|key| counters.number(key));
    let (guest_ticks, root_ticks, idle_ticks) = (guest_ticks?, root_ticks?, idle_ticks?);
    let all = guest_ticks
        .checked_add(root_ticks)?
        .checked_add(idle_ticks)?;
    (all > 0).then(|| LinuxBoot {
        guest_ticks,
        root_ticks,
        idle_ticks,
        root_percent: root_ticks as f64 * 100.0 / all as f64,
    })
}

/// The figures in columns, with the peers' and the limit.
fn table(exits: &BTreeMap<String, Ticks>) -> String {
    let mut text = format!(
        "{:<22}{:>10}{:>10}{:>10}{:>10}\n",
        "exit (ticks)", "Bulkhead", "limit", "KVM 6.1", "Xen 4.17"
    );
    for (name, ticks) in exits {
        let peer = PEERS.iter().find(|peer| peer.name == name);
        let show =
            |figure: Option<u64>| figure.map_or_else(|| "-".to_owned(), |ticks| ticks.to_string());
        text.push_str(&format!(
            "{name:<22}{:>10}{:>10}{:>10}{:>10}\n",
            ticks.median,
            show(peer.and_then(|peer| peer.limit)),
            show(peer.and_then(|peer| peer.kvm)),
            show(peer.and_then(|peer| peer.xen)),
        ));
    }
    text
}

/// What exceeds its limit or was not measured at all, in words.
fn exceeded(exits: &BTreeMap<String, Ticks>, boot: Option<&LinuxBoot>) -> Vec<String> {
    let mut over: Vec<String> = PEERS
        .iter()
        .filter_map(|peer| {
            let limit = peer.limit?;
            match exits.get(peer.name) {
                None => Some(format!("{} was not measured", peer.name)),
                Some(ticks) if ticks.median > limit => {
                    Some(format!("{} {} > {limit}", peer.name, ticks.median))
                }
                Some(_) => None,
            }
        })
        .collect();
    if let Some(boot) = boot.filter(|boot| boot.root_percent > ROOT_SHARE_LIMIT) {
        over.push(format!(
            "Linux' boot {:.2} % > {ROOT_SHARE_LIMIT} %",
            boot.root_percent
        ));
    }
    over
}

fn pattern(text: &str) -> Result<Regex> {
    Regex::new(text).map_err(|error| Error::BadCall(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "boot\nbench cpuid 140 139 150\nbench vmcall 121 100 130\nbench broken 1 2\ncase bench: ok\n";

    #[test]
    fn figures_are_read_from_the_console() {
        let exits = parse(CONSOLE);
        assert_eq!(exits.len(), 2);
        assert_eq!(
            exits["cpuid"],
            Ticks {
                median: 140,
                min: 139,
                max: 150
            }
        );
    }

    #[test]
    fn the_table_shows_peers_and_limits() {
        let text = table(&parse(CONSOLE));
        let cpuid = text.lines().find(|line| line.starts_with("cpuid")).unwrap();
        let words: Vec<_> = cpuid.split_whitespace().collect();
        assert_eq!(words, ["cpuid", "140", "150", "1132", "974"]);
    }

    #[test]
    fn a_figure_over_its_limit_is_named() {
        let boot = LinuxBoot {
            guest_ticks: 90,
            root_ticks: 10,
            idle_ticks: 0,
            root_percent: 10.0,
        };
        let over = exceeded(&parse(CONSOLE), Some(&boot));
        assert_eq!(over.first().unwrap(), "vmcall 121 > 120");
        assert!(over.last().unwrap().starts_with("Linux' boot 10.00 %"));
        assert!(!over.iter().any(|line| line.starts_with("cpuid")));
    }

    #[test]
    fn a_limited_figure_that_the_guest_does_not_print_is_named() {
        let limited = PEERS.iter().filter(|peer| peer.limit.is_some());
        let missing: Vec<_> = limited
            .map(|peer| format!("{} was not measured", peer.name))
            .collect();
        assert!(!missing.is_empty());
        assert_eq!(exceeded(&BTreeMap::new(), None), missing);
    }

    #[test]
    fn the_share_is_of_all_ticks() {
        let event = serde_json::json!({ "guest_ticks": 97, "root_ticks": 1, "idle_ticks": 2 });
        assert_eq!(
            share(&Event(event)).map(|boot| boot.root_percent),
            Some(1.0)
        );
        assert_eq!(share(&Event(serde_json::json!({ "guest_ticks": 1 }))), None);
    }
}
