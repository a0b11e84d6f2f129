//! A program that enters and leaves the kernel in every way that there is (`tests/programs/stress`), while modules come and go. What it
//! sees is the same in every run; so is that the kernel has nothing to complain about.

use std::collections::BTreeMap;

use xtask::provision::initramfs::{File, overlay};

use super::guest::{self, DEBIAN_6_1, DEBIAN_6_12, Guest};
use crate::context::Context;
use crate::machine::Machine;
use crate::outcome::{Outcome, ensure};
use crate::scenario::{Ground, Scenario};

const LONG_LIMIT: u64 = 3600;
const PROGRAM: &str = "stress";
const RUNNER: &str = include_str!("stress.sh");

pub fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "split_stress_base_is_the_same_on_each_kernel",
            Ground::Bochs,
            LONG_LIMIT,
            others,
        )
        .with_payloads(&[
            DEBIAN_6_1.image,
            DEBIAN_6_1.initrd,
            DEBIAN_6_12.image,
            DEBIAN_6_12.initrd,
        ])
        .only_when_long(),
    ]
}

/// How long to go on.
#[derive(Debug, Clone, Copy)]
pub enum Length {
    /// So many rounds.
    Rounds(u32),
    /// Rounds for so many seconds of the guest's time.
    Seconds(u32),
}

/// What it saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The digest of each kind of work, which no round or run may change.
    pub digests: BTreeMap<String, String>,
    /// Rounds that were done.
    pub rounds: u64,
    /// Modules that were loaded meanwhile.
    pub loads: u64,
    /// How often a vCPU was taken off and put on again meanwhile.
    pub moves: u64,
}

impl Report {
    /// Reads what the program and its runner print.
    fn read(printed: &str) -> Option<Self> {
        let mut digests = BTreeMap::new();
        let (mut rounds, mut loads, mut moves, mut code) = (None, None, None, None);
        for line in printed.lines() {
            match *line.split_ascii_whitespace().collect::<Vec<_>>() {
                ["stress:", "ok", _, "in", count, "rounds"] => rounds = count.parse().ok(),
                ["stress:", kind, digest] => {
                    digests.insert(kind.to_owned(), digest.to_owned());
                }
                ["modules:", count] => loads = count.parse().ok(),
                ["processors:", count] => moves = count.parse().ok(),
                ["stressed:", ended] => code = ended.parse().ok(),
                _ => {}
            }
        }
        (code == Some(0)).then_some(Self {
            digests,
            rounds: rounds?,
            loads: loads?,
            moves: moves?,
        })
    }

    /// What `after` saw otherwise, a line each.
    pub fn differences(&self, after: &Self) -> Vec<String> {
        let before = self.digests.iter();
        before
            .filter(|(kind, digest)| after.digests.get(*kind) != Some(*digest))
            .map(|(kind, digest)| format!("{kind}: {digest}, then {:?}", after.digests.get(kind)))
            .collect()
    }
}

/// What [`perform`] has to find in the RAM disk.
pub fn files(context: &Context<'_>) -> Outcome<Vec<File>> {
    Ok(vec![
        File::read("bin/stress", &context.lab.program(PROGRAM))?,
        File::new("bin/stressed", RUNNER),
    ])
}

/// Runs the program in `guest`, whose shell waits on `machine`.
pub fn perform(machine: &mut Machine<'_>, guest: Guest, length: Length) -> Outcome<Report> {
    let words = match length {
        Length::Rounds(count) => format!("rounds {count}"),
        Length::Seconds(count) => format!("seconds {count}"),
    };
    machine.send(&format!("stressed {words}"))?;
    let printed = machine.expect(r"(?s).*\nstressed: \d+\n")?;
    Report::read(&printed)
        .filter(|report| !report.digests.is_empty() && report.loads > 0)
        .filter(|report| (report.moves > 0) == (guest.vcpus > 1))
        .ok_or_else(|| machine.failure("the program failed"))
}

/// Boots `guest`, runs the program, and switches it off; fails when its kernel complains.
pub fn run(context: &Context<'_>, guest: Guest, length: Length) -> Outcome<Report> {
    let mut machine = guest.boot(context, &[overlay(&files(context)?)?])?;
    let report = perform(&mut machine, guest, length)?;
    guest::finish_content(&mut machine)?;
    Ok(report)
}

/// Both kernels, with one vCPU and two, see the same: for half a minute, and for a round.
fn others(context: &Context<'_>) -> Outcome {
    let of = |part, kernel, vcpus, length| {
        let guest = Guest {
            part,
            vcpus,
            ..Guest::of(kernel)
        };
        run(context, guest, length)
    };
    let long = of("6.1-2", DEBIAN_6_1, 2, Length::Seconds(30))?;
    context.note(format!("{} rounds in half a minute", long.rounds));
    for report in [
        of("6.1-1", DEBIAN_6_1, 1, Length::Rounds(1))?,
        of("6.12-1", DEBIAN_6_12, 1, Length::Rounds(1))?,
        of("6.12-2", DEBIAN_6_12, 2, Length::Rounds(2))?,
    ] {
        let differences = long.differences(&report);
        ensure(differences.is_empty(), || differences.join("\n"))?;
        ensure(long.rounds > report.rounds, || {
            "half a minute is a round".to_owned()
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "stress: calls 00aa\nstress: faults 00bb\n\
        [    9.000000] a line of the kernel's\nstress: ok 00cc in 7 rounds\nmodules: 8\nprocessors: 3\nstressed: 0\n";

    #[test]
    fn a_report_is_read_as_it_is_printed() {
        let report = Report::read(PRINTED).unwrap();
        assert_eq!((report.rounds, report.loads, report.moves), (7, 8, 3));
        assert_eq!(report.digests.len(), 2);
        assert_eq!(
            Report::read(&PRINTED.replace("stressed: 0", "stressed: 1")),
            None
        );
        assert_eq!(Report::read("stress: FAIL calls: x\nstressed: 0\n"), None);
    }

    #[test]
    fn what_a_kind_saw_otherwise_is_named() {
        let before = Report::read(PRINTED).unwrap();
        let after = Report::read(&PRINTED.replace("00bb", "00dd")).unwrap();
        assert!(before.differences(&before).is_empty());
        let differences = before.differences(&after);
        assert!(matches!(differences.as_slice(), [one] if one.starts_with("faults: 00bb")));
    }
}
