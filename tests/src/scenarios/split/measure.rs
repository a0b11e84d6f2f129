//! What one thing that user mode does takes, in a Linux of the tests: [`xtask::measure`] does it.

use std::collections::BTreeMap;

use xtask::measure::{Cost, Exits, Guest as Measured, MODES, Mode, PROGRAM, by_reason};
use xtask::provision::initramfs::{File, overlay};

use super::guest::{self, DEBIAN_6_1, Guest, VM};
use crate::context::Context;
use crate::machine::Machine;
use crate::outcome::{Failure, Outcome, ensure};
use crate::scenario::{Ground, Scenario};

const LIMIT: u64 = 600;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "split_measure_base_in_full_with_and_without_page_table_isolation",
            Ground::Bochs,
            4 * LIMIT,
            in_full,
        )
        .with_payloads(&[DEBIAN_6_1.image, DEBIAN_6_1.initrd])
        .only_when_long(),
    ]
}

impl Measured for Machine<'_> {
    type Error = Failure;

    fn send(&mut self, line: &str) -> Outcome {
        Machine::send(self, line)
    }

    fn enter(&mut self) -> Outcome {
        self.type_line("")
    }

    fn expect(&mut self, pattern: &str) -> Outcome<String> {
        Machine::expect(self, pattern)
    }

    fn exits(&mut self) -> Outcome<Exits> {
        let counters = self.counters(VM)?;
        let exits = by_reason(&counters)
            .ok_or_else(|| self.failure(&format!("the counters have no exits: {}", counters.0)))?;
        self.switch(VM)?;
        Ok(exits)
    }
}

/// Boots `guest`, measures these modes one after the other, by their names, and switches it off; fails when its kernel complains.
pub fn rows(
    context: &Context<'_>,
    guest: Guest,
    modes: &[Mode],
) -> Outcome<BTreeMap<&'static str, Cost>> {
    let program = File::read("bin/measure", &context.lab.program(PROGRAM))?;
    let mut machine = guest.boot(context, &[overlay(&[program])?])?;
    let mut costs = BTreeMap::new();
    for mode in modes {
        let cost = mode.measure(&mut machine)?;
        context.note(format!(
            "{}, PTI {}: {} rounds, {:.0} ticks each, exits {:?}",
            mode.name,
            if guest.pti { "on" } else { "off" },
            cost.rounds,
            cost.ticks_each(),
            cost.exits
        ));
        // The timer is looked at only now and then, so that it may have fired more often.
        let asked = mode.many - mode.few;
        machine.ensure(cost.rounds >= asked / 2, || {
            format!("{} of {asked} rounds of {}", cost.rounds, mode.name)
        })?;
        costs.insert(mode.name, cost);
    }
    guest::finish_content(&mut machine)?;
    Ok(costs)
}

/// What there is to compare the split's cost with: a kernel that lets user mode see all of it, and one that changes page tables instead.
fn in_full(context: &Context<'_>) -> Outcome {
    let of = |part, pti| {
        let guest = Guest {
            part,
            pti,
            ..Guest::of(DEBIAN_6_1)
        };
        rows(context, guest, &MODES)
    };
    let (open, isolated) = (of("pti-off", false)?, of("pti-on", true)?);
    let getpid = |costs: &BTreeMap<_, Cost>| costs.get("getpid").map_or(0.0, Cost::ticks_each);
    ensure(getpid(&isolated) > getpid(&open), || {
        "a system call takes no longer with page-table isolation: is it on?".to_owned()
    })
}
