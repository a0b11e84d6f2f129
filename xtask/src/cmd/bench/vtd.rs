//! What mapping and unmapping for devices takes: one boot of the device tests on `qemu-tcg`, whose case `costs` counts.
//!
//! Frames of tables, invalidation requests, batches of them handed over, and looks at whether they were done. Nothing here is a
//! time: TCG's says nothing about hardware's.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use regex::Regex;
use serde::Serialize;

use super::machine::LIMIT;
use crate::error::{Error, IoContext, Result};
use crate::image::Boot;
use crate::manifest::Manifest;
use crate::paths::{Workspace, create_dir};
use crate::platform::Platform;
use crate::platform::equipment::Equipment;
use crate::session::events::Event;
use crate::session::{Config, Session};
use crate::symbolize;
use crate::ui::Step;

/// With it the machine has a GiB in a row above 4 GiB.
const MEMORY_MIB: u64 = 4096;
const RUN: &str = "bench-vtd";
const MANIFEST: &str = "version = 1\n\n[hypervisor]\niommu = \"required\"\nselftest = \"vtd\"\n\n\
                        [[vm]]\nname = \"bench\"\nkernel = \"bench.elf\"\nmemory = \"64M\"\n";

/// What one step took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Cost {
    /// Frames of tables that it added or gave back.
    table_frames: u64,
    /// Invalidation requests.
    requests: u64,
    /// Batches in which they were handed over.
    submissions: u64,
    /// Looks at whether a batch was done.
    waits: u64,
}

/// Steps by name.
type Costs = BTreeMap<String, Cost>;

/// The most that a step may take.
#[derive(Debug, Clone, Copy)]
struct Limit {
    step: &'static str,
    /// In words, for the table.
    what: &'static str,
    table_frames: Option<u64>,
    requests: Option<u64>,
    submissions: Option<u64>,
}

/// A step's most frames, requests and submissions.
const fn limit(
    step: &'static str,
    what: &'static str,
    [table_frames, requests, submissions]: [Option<u64>; 3],
) -> Limit {
    Limit {
        step,
        what,
        table_frames,
        requests,
        submissions,
    }
}

/// Every step, in the order in which it is done.
const LIMITS: [Limit; 4] = [
    limit("map-1g", "map 1 GiB in a row", [Some(4), Some(1), None]),
    limit("unmap-1g", "unmap it", [Some(4), Some(1), None]),
    limit("map-1024-scattered", "map 1,024 pages apart", [None; 3]),
    limit("unmap-1024-scattered", "unmap them", [None, None, Some(8)]),
];

/// What `target/bench/vtd.json` holds.
#[derive(Debug, Serialize)]
struct Report<'a> {
    platform: &'static str,
    costs: &'a Costs,
}

/// Measures, prints the table, writes `target/bench/vtd.json`.
///
/// # Errors
/// When the run fails, or a figure is missing or exceeds its limit.
pub fn run(workspace: &Workspace, efi: &Path) -> Result<()> {
    let costs = measure(workspace, efi)?;
    print!("{}", table(&costs));
    let place = create_dir(workspace.root().join("target/bench"))?.join("vtd.json");
    let report = Report {
        platform: "qemu-tcg",
        costs: &costs,
    };
    let json =
        serde_json::to_string_pretty(&report).map_err(|error| Error::Run(error.to_string()))?;
    fs::write(&place, json + "\n").context("write", &place)?;
    println!("written to {}", workspace.show(&place));
    super::within_limits(&exceeded(&costs))
}

fn measure(workspace: &Workspace, efi: &Path) -> Result<Costs> {
    let step = Step::start("Counting what mapping for devices takes, on QEMU's IOMMU");
    let file = workspace.run_dir(RUN)?.join("bench.toml");
    fs::write(&file, MANIFEST).context("write", &file)?;
    let config = Config {
        name: RUN.to_owned(),
        emulator: Platform::QemuTcg.provision(workspace)?,
        boot: Boot::gather(workspace, efi, &Manifest::read(&file)?)?,
        pxe: false,
        cpus: 1,
        memory_mib: MEMORY_MIB,
        fixed_clock: true,
        equipment: Equipment::default(),
    };
    let mut session = Session::start(workspace, config, Box::new(|_| {}))?;
    let end = Regex::new(r"self-test vtd: \d+ ok, \d+ failed, \d+ skipped")
        .map_err(|error| Error::BadCall(error.to_string()))?;
    let outcome = session.expect(&end, LIMIT);
    symbolize::explain(&session.console_text(), efi);
    outcome?;
    let report = session.expect_event(LIMIT, |event| {
        event.name() == "self-test" && event.text("case") == "costs"
    })?;
    if report.text("outcome") != "ok" {
        return Err(session.failure(&format!("the case costs: {}", report.text("detail"))));
    }
    let costs = costs(&session.events());
    step.done(&format!("{} steps", costs.len()));
    Ok(costs)
}

/// What the events `vtd-costs` say.
fn costs(events: &[Event]) -> Costs {
    let cost = |event: &Event| {
        let cost = Cost {
            table_frames: event.number("table_frames")?,
            requests: event.number("requests")?,
            submissions: event.number("submissions")?,
            waits: event.number("waits")?,
        };
        Some((event.text("what").to_owned(), cost))
    };
    events
        .iter()
        .filter(|event| event.name() == "vtd-costs")
        .filter_map(cost)
        .collect()
}

/// The figures in columns, each limit behind its figure.
fn table(costs: &Costs) -> String {
    let mut text = format!(
        "{:<24}{:>14}{:>14}{:>14}{:>8}\n",
        "step", "table frames", "requests", "submissions", "waits"
    );
    let cell = |figure: u64, limit: Option<u64>| match limit {
        Some(limit) => format!("{figure} (<= {limit})"),
        None => figure.to_string(),
    };
    for limit in LIMITS {
        let Some(cost) = costs.get(limit.step) else {
            continue;
        };
        text.push_str(&format!(
            "{:<24}{:>14}{:>14}{:>14}{:>8}  {}\n",
            limit.what,
            cell(cost.table_frames, limit.table_frames),
            cell(cost.requests, limit.requests),
            cell(cost.submissions, limit.submissions),
            cost.waits,
            limit.step,
        ));
    }
    text
}

/// What exceeds its limit or was not measured at all, in words.
fn exceeded(costs: &Costs) -> Vec<String> {
    let mut over = Vec::new();
    for limit in LIMITS {
        let Some(cost) = costs.get(limit.step) else {
            over.push(format!("{} was not measured", limit.step));
            continue;
        };
        for (what, figure, most) in [
            ("table frames", cost.table_frames, limit.table_frames),
            ("requests", cost.requests, limit.requests),
            ("submissions", cost.submissions, limit.submissions),
        ] {
            if let Some(most) = most.filter(|most| figure > *most) {
                over.push(format!("{} {figure} {what} > {most}", limit.step));
            }
        }
    }
    over
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(what: &str, table_frames: u64, requests: u64, submissions: u64) -> Event {
        Event(
            json!({ "event": "vtd-costs", "what": what, "table_frames": table_frames,
            "requests": requests, "submissions": submissions, "waits": 3 }),
        )
    }

    fn good() -> Vec<Event> {
        vec![
            Event(json!({ "event": "boot" })),
            event("map-1g", 2, 1, 1),
            event("unmap-1g", 2, 1, 1),
            event("map-1024-scattered", 5, 1024, 8),
            event("unmap-1024-scattered", 5, 1024, 8),
        ]
    }

    #[test]
    fn the_manifest_is_in_order() {
        let plan = bulkhead_manifest::parse("bench.toml", MANIFEST).unwrap();
        assert_eq!(plan.hypervisor.selftest.as_str(), "vtd");
    }

    #[test]
    fn figures_within_their_limits_are_shown_with_them() {
        let costs = costs(&good());
        assert!(exceeded(&costs).is_empty());
        let text = table(&costs);
        let row = text
            .lines()
            .find(|line| line.ends_with("unmap-1024-scattered"));
        let words: Vec<_> = row.unwrap().split_whitespace().collect();
        assert_eq!(
            words,
            [
                "unmap",
                "them",
                "5",
                "1024",
                "8",
                "(<=",
                "8)",
                "3",
                "unmap-1024-scattered"
            ]
        );
        assert_eq!(text.lines().count(), 5);
    }

    #[test]
    fn a_figure_that_is_over_its_limit_or_missing_is_named() {
        let mut events = good();
        events[1] = event("map-1g", 5, 2, 1);
        events.pop();
        let over = exceeded(&costs(&events));
        assert_eq!(
            over,
            [
                "map-1g 5 table frames > 4",
                "map-1g 2 requests > 1",
                "unmap-1024-scattered was not measured"
            ]
        );
    }
}
