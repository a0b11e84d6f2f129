//! `cargo xtask bench`: what each exit costs in ticks, beside what peers cost on the same emulator.
//!
//! A bare-metal guest measures itself by its TSC on machines of one CPU, where Bochs counts instructions: the figures are the same
//! run after run. `machine` has the machines, `peers` what to compare with. A last run boots the demo and reads from the
//! counters how much of Linux' boot was spent in the hypervisor. `cargo xtask bench vtd`, `bench secmem` and `bench split` measure something else: see `vtd`,
//! `secmem` and `split`.

mod machine;
mod peers;
mod secmem;
mod split;
mod vtd;

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::build;
use crate::error::{Error, IoContext, Result};
use crate::manifest;
use crate::paths::{Workspace, create_dir};
use crate::session::events::Event;
use crate::ui::Step;
use machine::{LIMIT, MACHINES, Rows, start};
use peers::{PEERS, Peer};

/// The most of Linux' boot that may be spent in the hypervisor, in percent.
const ROOT_SHARE_LIMIT: f64 = 2.0;

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Measure this instead of exits.
    #[arg(value_enum, conflicts_with = "exits_only")]
    subject: Option<Subject>,
    /// Use this hypervisor binary instead of building it.
    #[arg(long, value_name = "FILE")]
    efi: Option<PathBuf>,
    /// Measure single operations only; do not boot Linux.
    #[arg(long)]
    exits_only: bool,
}

/// What can be measured beside exits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// What mapping and unmapping memory for devices takes, on QEMU's emulated IOMMU.
    Vtd,
    /// What sealing a VM's memory takes, on Bochs, and its ciphers on this machine's processor.
    Secmem,
    /// What keeping a Linux' kernel from its user code takes, on Bochs, beside the kernel's own page-table isolation.
    Split,
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
    exits: Rows,
    peers: &'static [Peer],
    linux_boot: Option<LinuxBoot>,
}

/// Measures, prints the table, writes `target/bench/exits.json`.
///
/// # Errors
/// When a run fails, or a figure is missing or exceeds its limit.
pub fn run(workspace: &Workspace, args: &BenchArgs) -> Result<()> {
    let efi = build::hypervisor_or(workspace, args.efi.as_deref())?;
    match args.subject {
        Some(Subject::Vtd) => return vtd::run(workspace, &efi),
        Some(Subject::Secmem) => return secmem::run(workspace, &efi),
        Some(Subject::Split) => return split::run(workspace, &efi),
        None => {}
    }
    let mut exits = Rows::new();
    for machine in &MACHINES {
        exits.extend(machine.measure(workspace, &efi)?);
    }
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
    within_limits(&over)
}

/// Fails with what is `over` its limit, if anything is.
fn within_limits(over: &[String]) -> Result<()> {
    if over.is_empty() {
        Ok(())
    } else {
        Err(Error::Run(format!(
            "not within the limits: {}",
            over.join(", ")
        )))
    }
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

/// The figures in columns, with the peers' and the limits.
fn table(rows: &Rows) -> String {
    let mut text = format!(
        "{:<22}{:>10}{:>10}{:>10}{:>10}{:>10}\n",
        "round trip (ticks)", "Bulkhead", "limit", "KVM 6.1", "Xen 4.17", "exits"
    );
    for (name, cost) in rows {
        let peer = PEERS.iter().find(|peer| peer.name == name);
        let show =
            |figure: Option<u64>| figure.map_or_else(|| "-".to_owned(), |ticks| ticks.to_string());
        text.push_str(&format!(
            "{name:<22}{:>10}{:>10}{:>10}{:>10}{:>10}\n",
            cost.median,
            show(peer.and_then(|peer| peer.limit)),
            show(peer.and_then(|peer| peer.kvm)),
            show(peer.and_then(|peer| peer.xen)),
            cost.exits
                .map_or_else(|| "-".to_owned(), |exits| format!("{exits:.2}")),
        ));
    }
    text
}

/// What exceeds its limit or was not measured at all, in words.
fn exceeded(rows: &Rows, boot: Option<&LinuxBoot>) -> Vec<String> {
    let mut over = Vec::new();
    for peer in PEERS {
        let cost = rows.get(peer.name);
        if cost.is_none() && (peer.limit.is_some() || peer.exit_limit.is_some()) {
            over.push(format!("{} was not measured", peer.name));
        }
        if let (Some(cost), Some(limit)) = (cost, peer.limit)
            && cost.median > limit
        {
            over.push(format!("{} {} > {limit}", peer.name, cost.median));
        }
        if let (Some(exits), Some(limit)) = (cost.and_then(|cost| cost.exits), peer.exit_limit)
            && exits > limit
        {
            over.push(format!("{} {exits} exits > {limit}", peer.name));
        }
    }
    if let Some(boot) = boot.filter(|boot| boot.root_percent > ROOT_SHARE_LIMIT) {
        over.push(format!(
            "Linux' boot {:.2} % > {ROOT_SHARE_LIMIT} %",
            boot.root_percent
        ));
    }
    over
}

#[cfg(test)]
mod tests {
    use super::*;

    use machine::{Cost, parse};

    const CONSOLE: &str = "bench cpuid 140 139 150\nbench vmcall 121 100 130\n";

    #[test]
    fn the_table_shows_peers_limits_and_exits() {
        let mut rows = parse(CONSOLE);
        rows.get_mut("vmcall").unwrap().exits = Some(1.0);
        let text = table(&rows);
        let words = |row: &str| -> Vec<String> {
            let line = text.lines().find(|line| line.starts_with(row)).unwrap();
            line.split_whitespace().map(str::to_owned).collect()
        };
        assert_eq!(words("cpuid"), ["cpuid", "140", "150", "1132", "974", "-"]);
        assert_eq!(words("vmcall").last().unwrap(), "1.00");
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
    fn a_block_request_with_more_than_one_exit_is_named() {
        let cost = |exits| Cost {
            median: 1,
            min: 1,
            max: 1,
            exits: Some(exits),
        };
        let over = |exits| {
            let rows = Rows::from([("virtio-block".to_owned(), cost(exits))]);
            let over = exceeded(&rows, None);
            over.into_iter()
                .find(|line| line.starts_with("virtio-block"))
        };
        assert_eq!(over(1.0), None);
        assert_eq!(over(2.0).unwrap(), "virtio-block 2 exits > 1");
    }

    #[test]
    fn a_limited_figure_that_no_guest_prints_is_named() {
        let limited = |peer: &&Peer| peer.limit.is_some() || peer.exit_limit.is_some();
        let missing: Vec<_> = PEERS
            .iter()
            .filter(limited)
            .map(|peer| format!("{} was not measured", peer.name))
            .collect();
        assert!(missing.contains(&"virtio-block was not measured".to_owned()));
        assert_eq!(exceeded(&Rows::new(), None), missing);
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
