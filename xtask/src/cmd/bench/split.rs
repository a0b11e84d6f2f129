//! What the kernel/user split takes: system calls, switches of processes, page faults and timer interrupts of a Linux on Bochs, with the split, without,
//! and with the kernel's own page-table isolation instead.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use regex::Regex;
use serde::Serialize;

use super::machine::{LIMIT, start};
use super::within_limits;
use crate::error::{Error, IoContext, Result};
use crate::measure::{Cost, Exits, Guest, MODES, PROGRAM, by_reason};
use crate::paths::{Workspace, create_dir};
use crate::programs;
use crate::provision::initramfs::{File, overlay};
use crate::provision::payload;
use crate::session::events::Event;
use crate::session::{Keys, Session};
use crate::ui::Step;

const VM: &str = "linux";
const KERNEL: &str = "vmlinuz-6.1-cloud";
const INITRD: &str = "initrd-virtio.img";
/// Ticks, which are instructions, that a system call may take more than without the split.
const ADDED_LIMIT: f64 = 40.0;
/// Bytes that the two views may take.
const BYTES_LIMIT: u64 = 256 << 10;
const FRAME_BYTES: u64 = 4096;

/// What the Linux is kept from its user code by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Variant {
    name: &'static str,
    split: bool,
    pti: &'static str,
}

const VARIANTS: [Variant; 3] = [
    Variant {
        name: "nothing",
        split: false,
        pti: "off",
    },
    Variant {
        name: "pti=on",
        split: false,
        pti: "on",
    },
    Variant {
        name: "split",
        split: true,
        pti: "off",
    },
];

/// What one of them takes.
#[derive(Debug, Serialize)]
struct Row {
    variant: &'static str,
    costs: BTreeMap<&'static str, Cost>,
    /// Bytes of the views beside the base: tables, and pages that only they show.
    view_bytes: u64,
}

/// Measures, prints the table, writes `target/bench/split.json`.
///
/// # Errors
/// When a run fails, a figure is missing or beyond its limit.
pub fn run(workspace: &Workspace, efi: &Path) -> Result<()> {
    programs::build(workspace)?;
    let mut rows = Vec::new();
    for variant in VARIANTS {
        rows.push(measure(workspace, efi, variant)?);
    }
    print!("{}", table(&rows));
    let over = beyond_limits(&rows);
    let place = create_dir(workspace.root().join("target/bench"))?.join("split.json");
    let json =
        serde_json::to_string_pretty(&rows).map_err(|error| Error::Run(error.to_string()))?;
    fs::write(&place, json + "\n").context("write", &place)?;
    println!("written to {}", workspace.show(&place));
    within_limits(&over)
}

/// A Linux of the bench's.
struct Linux {
    session: Session,
}

impl Linux {
    /// What the VM did up to now; the hypervisor's prompt stays open.
    fn counters(&mut self) -> Result<Event> {
        let is_it = |event: &Event| event.name() == "counters" && event.text("vm") == VM;
        let before = self.session.events().iter().filter(|e| is_it(e)).count();
        self.operator(&format!("\\x1dstats {VM}"))?;
        loop {
            let found = self.session.events().into_iter().filter(is_it).nth(before);
            if let Some(event) = found {
                return Ok(event);
            }
            self.session.check_interrupted()?;
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    fn operator(&mut self, keys: &str) -> Result<()> {
        let keys = Keys::parse(keys).map_err(Error::Run)?;
        self.session.type_keys(&keys)
    }
}

impl Guest for Linux {
    type Error = Error;

    fn send(&mut self, line: &str) -> Result<()> {
        self.session.send_line(line, LIMIT)
    }

    fn enter(&mut self) -> Result<()> {
        self.session.type_line("")
    }

    fn expect(&mut self, pattern: &str) -> Result<String> {
        let wanted = Regex::new(pattern).map_err(|error| Error::Run(error.to_string()))?;
        self.session.expect(&wanted, LIMIT)
    }

    fn exits(&mut self) -> Result<Exits> {
        let counters = self.counters()?;
        let exits = by_reason(&counters)
            .ok_or_else(|| self.session.failure("the counters have no exits"))?;
        self.session.type_line(&format!("switch {VM}"))?;
        self.expect(&format!("console of VM \"{VM}\""))?;
        Ok(exits)
    }
}

fn measure(workspace: &Workspace, efi: &Path, variant: Variant) -> Result<Row> {
    let step = Step::start(format!("Measuring Linux' entry code, {}", variant.name));
    let name = format!("bench-split-{}", variant.name.replace('=', "-"));
    let dir = workspace.run_dir(&name)?;
    let initrd = provided(workspace, INITRD)?;
    let program = programs::place(workspace, PROGRAM);
    let mut image = fs::read(&initrd).context("read", &initrd)?;
    image.extend_from_slice(&overlay(&[File::read("bin/measure", &program)?])?);
    let place = dir.join("initrd.img");
    fs::write(&place, image).context("write", &place)?;
    let kernel = provided(workspace, KERNEL)?;
    fs::copy(&kernel, dir.join(KERNEL)).context("copy", &kernel)?;
    let file = dir.join("bench.toml");
    fs::write(&file, manifest(variant)).context("write", &file)?;
    let mut linux = Linux {
        session: start(workspace, &name, efi, &file)?,
    };
    let mut costs = BTreeMap::new();
    for mode in MODES {
        costs.insert(mode.name, mode.measure(&mut linux)?);
    }
    let counters = linux.counters()?;
    let split = counters.0.get("split");
    let frames = ["tables", "pages"].map(|key| split?.get(key)?.as_u64());
    let frames: u64 = frames.into_iter().flatten().sum();
    linux.session.end()?;
    step.done(&format!("{} things", costs.len()));
    Ok(Row {
        variant: variant.name,
        costs,
        view_bytes: frames * FRAME_BYTES,
    })
}

fn provided(workspace: &Workspace, name: &str) -> Result<std::path::PathBuf> {
    payload::find(workspace, name)?.ok_or_else(|| Error::Run(format!("there is no payload {name}")))
}

fn manifest(variant: Variant) -> String {
    format!(
        "version = 1\n\n[[vm]]\nname = \"{VM}\"\nkernel = \"{KERNEL}\"\ninitrd = \"initrd.img\"\nmemory = \"256M\"\n\
         cmdline = \"console=ttyS0 pti={}\"\nsplit = {}\n",
        variant.pti, variant.split
    )
}

/// Ticks a round, and exits that were caused by it.
fn table(rows: &[Row]) -> String {
    let mut text = format!("{:<10}", "");
    for mode in MODES {
        text.push_str(&format!("{:>22}", format!("{} (ticks, exits)", mode.name)));
    }
    text.push_str(&format!("{:>14}\n", "views (KiB)"));
    for row in rows {
        text.push_str(&format!("{:<10}", row.variant));
        for mode in MODES {
            let cost = row.costs.get(mode.name);
            let cost = cost.map_or_else(
                || "-".to_owned(),
                |cost| {
                    let exits: u64 = cost.caused().map(|(_, count)| count).sum();
                    format!("{:.0}, {exits}", cost.ticks_each())
                },
            );
            text.push_str(&format!("{cost:>22}"));
        }
        text.push_str(&format!("{:>14}\n", row.view_bytes >> 10));
    }
    text
}

fn beyond_limits(rows: &[Row]) -> Vec<String> {
    let mut over = Vec::new();
    let find = |split| rows.iter().find(|row| (row.variant == "split") == split);
    let (Some(open), Some(split)) = (find(false), find(true)) else {
        return vec!["a row is missing".to_owned()];
    };
    for (name, cost) in &split.costs {
        for (reason, count) in cost.caused() {
            over.push(format!("{name}: {count} exits by {reason}, limit 0"));
        }
    }
    let getpid = |row: &Row| row.costs.get("getpid").map(Cost::ticks_each);
    let (Some(before), Some(after)) = (getpid(open), getpid(split)) else {
        return vec!["a figure is missing".to_owned()];
    };
    let added = after - before;
    if added > ADDED_LIMIT {
        over.push(format!(
            "a system call: {added:.0} ticks more, limit {ADDED_LIMIT}"
        ));
    }
    if split.view_bytes == 0 || split.view_bytes > BYTES_LIMIT {
        over.push(format!(
            "views: {} bytes, limit {BYTES_LIMIT}",
            split.view_bytes
        ));
    }
    over
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(variant: &'static str, ticks: u64, exits: &[(&str, u64)], view_bytes: u64) -> Row {
        let exits = exits
            .iter()
            .map(|(reason, count)| ((*reason).to_owned(), *count));
        let cost = Cost {
            rounds: 10,
            ticks,
            exits: exits.collect(),
        };
        Row {
            variant,
            costs: [("getpid", cost)].into(),
            view_bytes,
        }
    }

    #[test]
    fn manifests_are_in_order() {
        for variant in VARIANTS {
            let plan = bulkhead_manifest::parse("bench.toml", &manifest(variant)).unwrap();
            assert_eq!(plan.vms[0].split, variant.split);
        }
    }

    #[test]
    fn what_is_beyond_a_limit_is_named() {
        let open = row("nothing", 3300, &[], 0);
        let fine = row("split", 3700, &[("preemption-timer", 9)], 150 << 10);
        assert!(beyond_limits(&[open, fine]).is_empty());
        let open = row("nothing", 3300, &[], 0);
        let bad = row("split", 3710, &[("ept-violation", 1)], 257 << 10);
        assert_eq!(beyond_limits(&[open, bad]).len(), 3);
    }
}
