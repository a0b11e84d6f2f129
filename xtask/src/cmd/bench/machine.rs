//! The machines that measure: which VMs each has, which rows it prints, how many exits one operation took.
//!
//! The guest `bench` prints `bench <row> <median> <min> <max>`, in ticks, for the rows it is told by name. An operation's exits
//! are what the VM's counters grow by when it does more of them: a machine that counts them runs twice, with few and with many,
//! both at once.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use regex::Regex;
use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, IoContext, Result};
use crate::image::Boot;
use crate::manifest::Manifest;
use crate::paths::Workspace;
use crate::platform::Platform;
use crate::platform::equipment::Equipment;
use crate::session::events::Event;
use crate::session::{Config, Session};
use crate::symbolize;
use crate::ui::Step;

/// The VM that measures.
const VM: &str = "bench";
const MEMORY_MIB: u64 = 1024;
pub const LIMIT: Duration = Duration::from_secs(600);
/// How often each operation is done by a machine that counts exits.
const FEW: u64 = 100;
const MANY: u64 = 1000;
/// The exit that the hypervisor's own timer makes, whatever the guest does.
const OWN_TIMER: &str = "preemption-timer";
/// A disk for the guest to read, beside the manifest.
const DISK: &str = "disk.img";
const DISK_BYTES: usize = 1 << 20;

/// One machine of the bench: a manifest with the VM that measures first.
#[derive(Debug)]
pub struct Machine {
    /// What it measures, in words, and in its directory's name.
    pub what: &'static str,
    /// What the guest is told to measure.
    rows: &'static str,
    /// The row whose operation the exits are counted of.
    counted: Option<&'static str>,
    /// The measuring VM's further keys.
    keys: &'static str,
    /// Further VMs.
    others: &'static str,
}

/// Every machine, in the order in which they run. All have one CPU: figures are the same in every run.
pub const MACHINES: [Machine; 5] = [
    Machine {
        what: "exits",
        rows: "exits",
        counted: None,
        keys: "",
        others: "",
    },
    Machine {
        what: "interrupts between vCPUs",
        rows: "ipi",
        counted: Some("ipi"),
        keys: "vcpus = 2\n",
        others: "",
    },
    Machine {
        what: "block requests",
        rows: "block",
        counted: Some("virtio-block"),
        keys: "[[vm.disk]]\nimage = \"disk.img\"\nmode = \"read-only\"\n",
        others: "",
    },
    Machine {
        what: "frames between VMs",
        rows: "net",
        counted: Some("virtio-net"),
        keys: "[[vm.nic]]\nsegment = \"bench\"\n",
        others: "\n[[vm]]\nname = \"peer\"\nkernel = \"virtio.elf\"\ncmdline = \"case=net role=pong\"\nmemory = \"64M\"\n\
                 [[vm.nic]]\nsegment = \"bench\"\n",
    },
    Machine {
        what: "switches between VMs",
        rows: "switch",
        counted: Some("vm-switch"),
        keys: "",
        others: "\n[[vm]]\nname = \"idle\"\nkernel = \"burn.elf\"\ncmdline = \"mode=idle hz=1000\"\nmemory = \"64M\"\n",
    },
];

/// What one operation's round trip takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cost {
    /// In ticks, of the samples.
    pub median: u64,
    /// The cheapest.
    pub min: u64,
    /// The dearest.
    pub max: u64,
    /// VM exits of the VM that measures, without those of the hypervisor's own timer; of rows that count them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exits: Option<f64>,
}

/// What is measured, by row.
pub type Rows = BTreeMap<String, Cost>;

impl Machine {
    /// Runs it, and again when exits are counted; returns its rows.
    ///
    /// # Errors
    /// When a run fails, or the guest measures nothing or finds something wrong.
    pub fn measure(&self, workspace: &Workspace, efi: &Path) -> Result<Rows> {
        let step = Step::start(format!(
            "Measuring {} in a bare-metal guest on Bochs",
            self.what
        ));
        let rows = match self.counted {
            None => self.run(workspace, efi, MANY)?.0,
            Some(counted) => {
                let (few, many) = thread::scope(|scope| {
                    let few = scope.spawn(|| self.run(workspace, efi, FEW));
                    (few.join(), self.run(workspace, efi, MANY))
                });
                let (_, before) =
                    few.map_err(|_| Error::Run("a bench thread panicked".to_owned()))??;
                let (mut rows, after) = many?;
                let exits = per_operation(before, after);
                let row = rows
                    .get_mut(counted)
                    .ok_or_else(|| Error::Run(format!("the guest printed no row {counted}")))?;
                row.exits = Some(exits);
                rows
            }
        };
        step.done(&format!("{} operations", rows.len()));
        Ok(rows)
    }

    /// The rows with `count` samples each, and all exits the VM made meanwhile.
    fn run(&self, workspace: &Workspace, efi: &Path, count: u64) -> Result<(Rows, u64)> {
        let name = format!("bench-{}-{count}", self.rows);
        let dir = workspace.run_dir(&name)?;
        let file = dir.join("bench.toml");
        fs::write(&file, self.manifest(count)).context("write", &file)?;
        let disk = dir.join(DISK);
        fs::write(&disk, vec![0; DISK_BYTES]).context("write", &disk)?;
        let mut session = start(workspace, &name, efi, &file)?;
        let outcome = session.expect(&pattern(r"case bench: (ok|FAIL.*)\n")?, LIMIT);
        symbolize::explain(&session.console_text(), efi);
        let verdict = outcome?;
        if verdict.contains("FAIL") {
            return Err(session.failure(verdict.trim()));
        }
        let rows = parse(&session.console_text());
        if rows.is_empty() {
            return Err(session.failure("the guest printed no figures"));
        }
        if self.counted.is_none() {
            return Ok((rows, 0));
        }
        let counters = session.expect_event(LIMIT, |event| {
            event.name() == "counters" && event.text("vm") == VM
        })?;
        let exits = exits(&counters).ok_or_else(|| session.failure("the counters lack exits"))?;
        Ok((rows, exits))
    }

    fn manifest(&self, count: u64) -> String {
        format!(
            "version = 1\n\n[[vm]]\nname = \"{VM}\"\nkernel = \"bench.elf\"\ncmdline = \"rows={} count={count}\"\n\
             memory = \"64M\"\n{}{}",
            self.rows, self.keys, self.others
        )
    }
}

/// Starts Bochs with one CPU and the manifest at `manifest`.
///
/// # Errors
/// When it does not start.
pub fn start(workspace: &Workspace, name: &str, efi: &Path, manifest: &Path) -> Result<Session> {
    let config = Config {
        name: name.to_owned(),
        emulator: Platform::Bochs.provision(workspace)?,
        boot: Boot::gather(workspace, efi, &Manifest::read(manifest)?)?,
        pxe: false,
        cpus: 1,
        memory_mib: MEMORY_MIB,
        fixed_clock: true,
        equipment: Equipment::default(),
    };
    Session::start(workspace, config, Box::new(|_| {}))
}

/// Reads the guest's lines `bench <row> <median> <min> <max>`.
pub fn parse(console: &str) -> Rows {
    let line = |line: &str| {
        let mut words = line.strip_prefix("bench ")?.split_whitespace();
        let name = words.next()?.to_owned();
        let mut number = || words.next()?.parse().ok();
        Some((
            name,
            Cost {
                median: number()?,
                min: number()?,
                max: number()?,
                exits: None,
            },
        ))
    };
    console.lines().filter_map(line).collect()
}

/// The exits that the guest caused.
fn exits(counters: &Event) -> Option<u64> {
    let reasons = counters.0.get("exits")?.as_object()?;
    let caused = reasons.iter().filter(|(reason, _)| *reason != OWN_TIMER);
    caused.map(|(_, count)| Value::as_u64(count)).sum()
}

/// To a hundredth: what one operation adds to the exits of a run with [`FEW`] to make those of a run with [`MANY`].
fn per_operation(few: u64, many: u64) -> f64 {
    let added = many.saturating_sub(few) as f64 / (MANY - FEW) as f64;
    (added * 100.0).round() / 100.0
}

fn pattern(text: &str) -> Result<Regex> {
    Regex::new(text).map_err(|error| Error::BadCall(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_manifest as manifest;

    #[test]
    fn every_machine_has_a_manifest_that_is_in_order_with_the_measuring_vm_in_front() {
        for machine in &MACHINES {
            let plan = manifest::parse("bench.toml", &machine.manifest(MANY)).unwrap();
            let first = plan.vms.first().unwrap();
            assert_eq!(first.name.as_str(), VM, "{}", machine.what);
            assert!(first.cmdline.contains(machine.rows));
            assert!(
                plan.vms.iter().all(|vm| vm.cpus.is_none()),
                "one CPU for all"
            );
        }
    }

    #[test]
    fn figures_are_read_from_the_console() {
        let rows = parse("boot\nbench cpuid 140 139 150\nbench broken 1 2\ncase bench: ok\n");
        let cost = Cost {
            median: 140,
            min: 139,
            max: 150,
            exits: None,
        };
        assert_eq!(
            rows.into_iter().collect::<Vec<_>>(),
            [("cpuid".to_owned(), cost)]
        );
    }

    #[test]
    fn exits_of_an_operation_are_what_more_of_them_add() {
        assert_eq!(per_operation(530, 1430), 1.0);
        assert_eq!(per_operation(530, 533), 0.0);
        assert_eq!(per_operation(0, 2259), 2.51);
    }

    #[test]
    fn the_hypervisors_own_timer_is_nobodys_exit() {
        let counters = |exits: Value| Event(serde_json::json!({ "vm": VM, "exits": exits }));
        let event = counters(serde_json::json!({ "io": 7, "hlt": 2, OWN_TIMER: 900 }));
        assert_eq!(exits(&event), Some(9));
        assert_eq!(exits(&counters(serde_json::json!({ "io": "many" }))), None);
    }
}
