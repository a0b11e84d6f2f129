//! The same Linux with the split: it sees and passes what it does without, and user mode reaches nothing of its kernel but what is named.

use super::guest::{self, DEBIAN_6_1, DEBIAN_6_12, Guest, MATRIX, PAYLOADS};
use super::measure;
use super::samples;
use super::selftests::{self, Verdict};
use super::stress::{self, Length};
use crate::context::Context;
use crate::outcome::{Outcome, ensure};
use crate::scenario::{Ground, Scenario};
use xtask::measure::{MODES, Mode};
use xtask::provision::kselftest;

const LIMIT: u64 = 900;
const LONG_LIMIT: u64 = 7200;
/// Every round has to give the digests of the first: a few take long enough for modules, and a vCPU, to come and go.
const FEW: Length = Length::Rounds(4);
const TWO_MINUTES: Length = Length::Seconds(120);
const TEN_MINUTES: Length = Length::Seconds(600);
/// Exits from user code, while it is under stress, that are looked at for what of the kernel is within reach.
const SAMPLES: u32 = 200;
/// What the tests of the entry code boot.
const WITH_TESTS: &[&str] = &[
    DEBIAN_6_1.image,
    DEBIAN_6_1.initrd,
    DEBIAN_6_12.image,
    DEBIAN_6_12.initrd,
    kselftest::PAYLOAD,
];

pub fn scenarios() -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for (number, (name, guest)) in MATRIX.into_iter().enumerate() {
        let stress = |name, limit, without, with| {
            Scenario::new(name, Ground::Bochs, limit, move |context| {
                stressed(context, guest, without, with)
            })
            .with_payloads(PAYLOADS)
        };
        let short = stress(format!("split_stress_of_{name}"), LIMIT, FEW, TWO_MINUTES);
        scenarios.extend([
            match number {
                0 | 1 => short,
                _ => short.only_when_long(),
            },
            stress(
                format!("split_stress_of_{name}_for_ten_minutes"),
                LONG_LIMIT,
                TEN_MINUTES,
                TEN_MINUTES,
            )
            .only_when_long(),
        ]);
        let tests = Scenario::new(
            format!("split_selftests_of_{name}"),
            Ground::Bochs,
            2 * LIMIT,
            move |context| entry_code(context, guest),
        )
        .with_payloads(WITH_TESTS);
        scenarios.push(match number {
            0 => tests,
            _ => tests.only_when_long(),
        });
    }
    scenarios.extend([
        Scenario::new("split_costs_no_exits", Ground::Bochs, LIMIT, costs)
            .with_payloads(&[DEBIAN_6_1.image, DEBIAN_6_1.initrd]),
        Scenario::new(
            "split_user_mode_reaches_only_what_is_named",
            Ground::Bochs,
            LIMIT,
            reach,
        )
        .with_payloads(&[DEBIAN_6_1.image, DEBIAN_6_1.initrd]),
    ]);
    scenarios
}

fn entry_code(context: &Context<'_>, guest: Guest) -> Outcome {
    let without = selftests::run(context, guest.whole("off"))?;
    let with = selftests::run(context, guest.split("on"))?;
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

fn stressed(context: &Context<'_>, guest: Guest, without: Length, with: Length) -> Outcome {
    let without = stress::run(context, guest.whole("off"), without)?;
    let split = Guest {
        samples: SAMPLES,
        ..guest.split("on")
    };
    let with = stress::run(context, split, with)?;
    context.note(format!(
        "{} rounds with the split, {} without; meanwhile {} and {} modules were loaded, and {} and {} times a vCPU was off",
        with.rounds, without.rounds, with.loads, without.loads, with.moves, without.moves
    ));
    let differences = without.differences(&with);
    ensure(differences.is_empty(), || differences.join("\n"))
}

/// Samples of a kernel that is split, and of one that is not. The stress has others, of each kernel and number of vCPUs.
fn reach(context: &Context<'_>) -> Outcome {
    let of = |guest: Guest, samples| Guest { samples, ..guest };
    let guest = Guest::of(DEBIAN_6_1);
    for guest in [of(guest.split("on"), 100), of(guest.whole("off"), 3)] {
        let mut machine = guest.boot(context, &[])?;
        // Timer interrupts of what computes.
        machine.send("i=0; while [ $i -lt 8000 ]; do i=$((i+1)); done; echo com''puted")?;
        machine.expect("computed\n")?;
        samples::ensure_since(&mut machine, guest, 0)?;
        guest::finish_content(&mut machine)?;
    }
    Ok(())
}

/// In steady state nothing that user mode does exits: what still does is a matter of time, the two clocks' and the console's.
fn costs(context: &Context<'_>) -> Outcome {
    let rows = measure::rows(
        context,
        Guest::of(DEBIAN_6_1).split(""),
        &MODES.map(Mode::short),
    )?;
    for (name, cost) in rows {
        let caused: Vec<_> = cost.caused().collect();
        ensure(caused.is_empty(), || format!("{name}: exits {caused:?}"))?;
    }
    Ok(())
}
