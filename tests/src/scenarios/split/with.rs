//! The same Linux with the split: it sees and passes what it does without, and user mode reaches nothing of its kernel but what is named.

use super::guest::{self, DEBIAN_6_1, DEBIAN_6_12, Guest};
use super::measure;
use super::selftests::{self, Verdict};
use super::stress::{self, Length};
use crate::context::Context;
use crate::outcome::{Outcome, ensure};
use crate::scenario::{Ground, Scenario};
use xtask::measure::{MODES, Mode};
use xtask::provision::kselftest::PAYLOAD;
use xtask::session::events::Event;

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
        Scenario::new(
            "split_user_mode_reaches_only_what_is_named",
            Ground::Bochs,
            LIMIT,
            reach,
        )
        .with_payloads(&[
            DEBIAN_6_1.image,
            DEBIAN_6_1.initrd,
            DEBIAN_6_12.image,
            DEBIAN_6_12.initrd,
        ]),
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

/// What of the kernel is within reach at exits from user mode, through the guest's tables and the view it is in: with the split what is named, fewer than 32 frames,
/// and without it as much as the VM has memory, at least.
fn reach(context: &Context<'_>) -> Outcome {
    const FRAMES: u64 = 32;
    const PAGES: u64 = (256 << 20) / 4096;
    let of = |part, kernel, vcpus, split, samples| Guest {
        part,
        vcpus,
        split,
        samples,
        ..Guest::of(kernel)
    };
    for guest in [
        of("6.1", DEBIAN_6_1, 1, true, 100),
        of("6.12", DEBIAN_6_12, 2, true, 100),
        of("off", DEBIAN_6_1, 1, false, 3),
    ] {
        let mut machine = guest.boot(context, &[])?;
        // Timer interrupts of what computes, on every processor.
        machine.send("(i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done) & i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; wait; echo com''puted")?;
        machine.expect("computed\n")?;
        let is_fine = |event: &Event| {
            let number = |key| event.number(key).unwrap_or(u64::MAX);
            let is_whole = number("cut") == 0;
            is_whole
                && match guest.split {
                    true => {
                        let (frames, unnamed) = (number("frames"), number("unnamed"));
                        number("in_user") == 1 && unnamed == 0 && (1..FRAMES).contains(&frames)
                    }
                    false => {
                        number("in_user") == 0 && number("unnamed") > 0 && number("pages") >= PAGES
                    }
                }
        };
        let all = machine.count("split-sample", |_| true);
        let fine = machine.count("split-sample", is_fine);
        machine.ensure(all == guest.samples as usize && fine == all, || {
            format!("{fine} of {all} samples are as they should be")
        })?;
        guest::finish(&mut machine)?;
    }
    Ok(())
}

/// In steady state nothing that user mode does exits: what still does is a matter of time, the two clocks' and the console's.
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
