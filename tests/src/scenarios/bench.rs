//! `cargo xtask bench`: the same figures twice, each within its bound.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;
use xtask::error::IoContext;

use super::linux::DEMO_PAYLOADS;
use crate::context::Context;
use crate::outcome::{Failure, Outcome, ensure};
use crate::scenario::{Ground, Scenario};

const REPORT: &str = "target/bench/exits.json";
/// What an exit's round trip may cost at most, in ticks: the numbers, not the tool's.
const BOUNDS: [(&str, u64); 9] = [
    ("cpuid", 150),
    ("vmcall", 120),
    ("vmcall-unknown", 120),
    ("rdmsr-0x1a0", 150),
    ("wrmsr-tsc-deadline", 250),
    ("port-read-uart", 250),
    ("port-write-uart", 250),
    ("port-read-0x40", 250),
    ("port-write-0x21", 250),
];
const ROOT_SHARE_LIMIT: f64 = 2.0;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "bench_gives_the_same_figures_twice_within_their_bounds",
            Ground::Bochs,
            1200,
            bench,
        )
        .with_payloads(DEMO_PAYLOADS),
    ]
}

fn bench(context: &Context<'_>) -> Outcome {
    let first = measure(context, "first", &["bench"])?;
    let second = measure(context, "second", &["bench", "--exits-only"])?;
    let (exits, again) = (medians(&first)?, medians(&second)?);
    context.note(format!("{exits:?}"));
    ensure(first.get("exits") == second.get("exits"), || {
        format!("two runs differ:\n{exits:?}\n{again:?}")
    })?;
    for (name, bound) in BOUNDS {
        let ticks = exits
            .get(name)
            .ok_or_else(|| Failure::Unmet(format!("nothing measured {name}")))?;
        ensure(*ticks <= bound, || {
            format!("{name} costs {ticks} ticks, more than {bound}")
        })?;
    }
    let share = first
        .pointer("/linux_boot/root_percent")
        .and_then(Value::as_f64)
        .ok_or_else(|| Failure::Unmet("the report lacks Linux' boot".to_owned()))?;
    context.note(format!("Linux' boot: {share:.2} % in the hypervisor"));
    ensure(share <= ROOT_SHARE_LIMIT, || {
        format!("{share:.2} % of Linux' boot were spent in the hypervisor")
    })
}

/// Runs the bench once; it prints a table and writes the report.
fn measure(context: &Context<'_>, part: &str, arguments: &[&str]) -> Outcome<Value> {
    let path = context.lab.workspace.root().join(REPORT);
    if path.exists() {
        fs::remove_file(&path).context("remove", &path)?;
    }
    let done = context.run(part, context.xtask(arguments))?;
    done.ensure_code(0)?;
    for heading in ["Bulkhead", "KVM", "Xen"] {
        ensure(done.output.contains(heading), || {
            format!("the table has no column {heading}:\n{}", done.output)
        })?;
    }
    let text = fs::read_to_string(&path).context("read", &path)?;
    fs::copy(&path, context.dir()?.join(format!("{part}.json"))).context("copy", &path)?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::Unmet(format!("{REPORT} is no JSON: {error}")))
}

fn medians(report: &Value) -> Outcome<BTreeMap<&str, u64>> {
    let exits = report
        .get("exits")
        .and_then(Value::as_object)
        .ok_or_else(|| Failure::Unmet("the report has no exits".to_owned()))?;
    exits
        .iter()
        .map(|(name, ticks)| {
            let median = ticks.get("median").and_then(Value::as_u64);
            median
                .map(|median| (name.as_str(), median))
                .ok_or_else(|| Failure::Unmet(format!("{name} has no median")))
        })
        .collect()
}
