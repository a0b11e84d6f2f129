//! The same Linux with the split: it sees and passes what it does without, and user mode reaches nothing of its kernel but what is named.

use super::guest::{DEBIAN_6_1, DEBIAN_6_12, Guest};
use super::measure;
use super::selftests::{self, Verdict};
use super::stress::{self, Length};
use crate::context::Context;
use crate::outcome::{Outcome, ensure};
use crate::scenario::{Ground, Scenario};
use xtask::measure::{MODES, Mode};
use xtask::provision::kselftest::PAYLOAD;

const LIMIT: u64 = 900;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("split_selftests", Ground::Bochs, 2 * LIMIT, entry_code).with_payloads(&[
            DEBIAN_6_1.image,
            DEBIAN_6_1.initrd,
            PAYLOAD,
        ]),
        Scenario::new("split_stress", Ground::Bochs, 2 * LIMIT, stressed).with_payloads(&[
            DEBIAN_6_1.image,
            DEBIAN_6_1.initrd,
            DEBIAN_6_12.image,
            DEBIAN_6_12.initrd,
        ]),
        Scenario::new("split_costs_no_exits", Ground::Bochs, LIMIT, costs)
            .with_payloads(&[DEBIAN_6_1.image, DEBIAN_6_1.initrd]),
    ]
}

/// `kernel` with the split.
const fn split(part: &'static str, guest: Guest) -> Guest {
    Guest {
        part,
        split: true,
        ..guest
    }
}

fn entry_code(context: &Context<'_>) -> Outcome {
    let guest = Guest::of(DEBIAN_6_1);
    let without = selftests::run(
        context,
        Guest {
            part: "off",
            ..guest
        },
    )?;
    let with = selftests::run(context, split("on", guest))?;
    let differences = selftests::differences(&without, &with);
    let all = with.verdicts.values();
    let passed = all
        .clone()
        .filter(|verdict| **verdict == Verdict::Ok)
        .count();
    context.note(format!("{passed} of {} pass", all.len()));
    ensure(differences.is_empty(), || differences.join("\n"))?;
    // What is compared has to have something to lose.
    ensure(passed * 2 > all.len(), || {
        "most tests do not pass".to_owned()
    })
}

fn stressed(context: &Context<'_>) -> Outcome {
    let guest = Guest::of(DEBIAN_6_1);
    let rounds = Length::Rounds(1);
    let without = stress::run(
        context,
        Guest {
            part: "off",
            ..guest
        },
        rounds,
    )?;
    let two = Guest {
        vcpus: 2,
        ..Guest::of(DEBIAN_6_12)
    };
    for guest in [split("6.1-1", guest), split("6.12-2", two)] {
        let with = stress::run(context, guest, rounds)?;
        let differences = without.differences(&with);
        ensure(differences.is_empty(), || differences.join("\n"))?;
    }
    Ok(())
}

/// In steady state no switch between views exits, and nothing else exits more often than without.
fn costs(context: &Context<'_>) -> Outcome {
    let rows = measure::rows(
        context,
        split("", Guest::of(DEBIAN_6_1)),
        &MODES.map(Mode::short),
    )?;
    for (name, cost) in rows {
        let caused: Vec<_> = cost.caused().collect();
        ensure(caused.is_empty(), || format!("{name}: exits {caused:?}"))?;
    }
    Ok(())
}
