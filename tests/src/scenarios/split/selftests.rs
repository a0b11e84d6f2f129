//! Linux' own tests of its x86 entry code. Nobody expects all of them to pass on any machine; with the split those have to that do without.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;

use xtask::error::IoContext;
use xtask::provision::initramfs::{File, overlay};
use xtask::provision::kselftest::{HOME, PAYLOAD};

use super::guest::{self, DEBIAN_6_1, DEBIAN_6_12, Guest, Kernel};
use crate::context::Context;
use crate::outcome::{Outcome, ensure};
use crate::scenario::{Ground, Scenario};

const LIMIT: u64 = 900;
/// Runs the tests one after the other; see [`Verdict::read`] for what it prints.
const RUNNER: &str = include_str!("selftests.sh");
const RUNNER_PATH: &str = "bin/kselftests";

/// The parts of `others`.
const OTHERS: [(&str, &str, Kernel, u32); 3] = [
    ("6.1-2-first", "6.1-2-second", DEBIAN_6_1, 2),
    ("6.12-1-first", "6.12-1-second", DEBIAN_6_12, 1),
    ("6.12-2-first", "6.12-2-second", DEBIAN_6_12, 2),
];

pub fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "split_selftests_base_repeats_on_each_kernel",
            Ground::Bochs,
            4 * LIMIT,
            others,
        )
        .with_payloads(&[
            DEBIAN_6_1.image,
            DEBIAN_6_1.initrd,
            DEBIAN_6_12.image,
            DEBIAN_6_12.initrd,
            PAYLOAD,
        ])
        .only_when_long(),
    ]
}

/// How one test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It passed.
    Ok,
    /// It says that this kernel or machine lacks what it tests.
    Skipped,
    /// It failed with this exit code; 137 when it did not end by itself.
    Failed(u8),
}

/// What came of all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Results {
    /// How each test ended, by its name.
    pub verdicts: BTreeMap<String, Verdict>,
    /// What the kernel complained of meanwhile.
    pub complaints: BTreeSet<String>,
}

impl Verdict {
    /// Reads `selftest NAME: VERDICT`.
    fn read(line: &str) -> Option<(String, Self)> {
        let (name, verdict) = line.strip_prefix("selftest ")?.split_once(": ")?;
        let verdict = match verdict {
            "ok" => Self::Ok,
            "skipped" => Self::Skipped,
            failed => {
                let code = failed.strip_prefix("failed(")?.strip_suffix(')')?;
                Self::Failed(code.parse().ok()?)
            }
        };
        Some((name.to_owned(), verdict))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Skipped => f.write_str("skipped"),
            Self::Failed(code) => write!(f, "failed({code})"),
        }
    }
}

/// What `after` has otherwise than `before`, a line each.
pub fn differences(before: &Results, after: &Results) -> Vec<String> {
    let names: BTreeSet<_> = before
        .verdicts
        .keys()
        .chain(after.verdicts.keys())
        .collect();
    let show = |verdict: Option<&Verdict>| {
        verdict.map_or_else(|| "not run".to_owned(), Verdict::to_string)
    };
    let verdicts = names
        .into_iter()
        .map(|name| (name, before.verdicts.get(name), after.verdicts.get(name)))
        .filter(|(_, before, after)| before != after)
        .map(|(name, before, after)| format!("{name}: {}, then {}", show(before), show(after)));
    let gone = before.complaints.difference(&after.complaints);
    let new = after.complaints.difference(&before.complaints);
    verdicts
        .chain(gone.map(|line| format!("no more: {line}")))
        .chain(new.map(|line| format!("new: {line}")))
        .collect()
}

/// Boots `guest`, runs every test in it, and switches it off.
pub fn run(context: &Context<'_>, guest: Guest) -> Outcome<Results> {
    let tests = context.lab.payload(PAYLOAD)?;
    let overlays = [
        fs::read(&tests).context("read", &tests)?,
        overlay(&[File::new(RUNNER_PATH, RUNNER)])?,
    ];
    let mut machine = guest.boot(context, &overlays)?;
    machine.send(&format!("kselftests /{HOME}"))?;
    let printed = machine.expect(r"(?s).*\nselftests: \d+\n")?;
    let verdicts: BTreeMap<_, _> = printed.lines().filter_map(Verdict::read).collect();
    let all = format!("\nselftests: {}\n", verdicts.len());
    machine.ensure(!verdicts.is_empty() && printed.ends_with(&all), || {
        format!("only {} tests said how they ended", verdicts.len())
    })?;
    Ok(Results {
        verdicts,
        complaints: guest::finish(&mut machine)?.into_iter().collect(),
    })
}

/// The same on the other kernel and with two vCPUs, each twice: what is not the same by itself cannot be compared.
fn others(context: &Context<'_>) -> Outcome {
    for (first, second, kernel, vcpus) in OTHERS {
        let run = |part| {
            let guest = Guest {
                part,
                vcpus,
                ..Guest::of(kernel)
            };
            run(context, guest)
        };
        let (before, after) = (run(first)?, run(second)?);
        let differences = differences(&before, &after);
        ensure(differences.is_empty(), || {
            format!("{first} and {second}:\n{}", differences.join("\n"))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(lines: &[&str]) -> Results {
        Results {
            verdicts: lines.iter().copied().filter_map(Verdict::read).collect(),
            complaints: BTreeSet::new(),
        }
    }

    #[test]
    fn verdicts_are_read_as_the_runner_prints_them() {
        let read = results(&[
            "selftest a_64: ok",
            "selftest b_32: skipped",
            "selftest c_32: failed(137)",
            "selftests: 3",
            "selftest d: maybe",
        ]);
        let expected = [
            ("a_64".to_owned(), Verdict::Ok),
            ("b_32".to_owned(), Verdict::Skipped),
            ("c_32".to_owned(), Verdict::Failed(137)),
        ];
        assert_eq!(read.verdicts.into_iter().collect::<Vec<_>>(), expected);
        for word in ["ok", "skipped", "failed($code)"] {
            assert!(RUNNER.contains(&format!("verdict=\"{word}\"")), "{word}");
        }
    }

    #[test]
    fn what_differs_is_named_and_what_was_not_run_too() {
        let before = results(&["selftest a: ok", "selftest b: ok", "selftest c: failed(1)"]);
        let mut after = results(&[
            "selftest b: failed(2)",
            "selftest c: failed(1)",
            "selftest d: ok",
        ]);
        after.complaints.insert("WARNING: at x".to_owned());
        assert!(differences(&before, &before).is_empty());
        assert_eq!(
            differences(&before, &after),
            [
                "a: ok, then not run",
                "b: ok, then failed(2)",
                "d: not run, then ok",
                "new: WARNING: at x"
            ]
        );
    }
}
