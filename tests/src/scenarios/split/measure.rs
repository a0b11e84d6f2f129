//! What one thing that user mode does takes: exits, by reason, and ticks. A program does it between two looks at the VM's counters
//! (`tests/programs/measure`), once a few times and once many times: what is not of the thing itself is in both and falls out.

use std::collections::BTreeMap;

use regex::Regex;
use xtask::provision::initramfs::{File, overlay};
use xtask::session::events::Event;

use super::guest::{self, DEBIAN_6_1, Guest, VM};
use crate::context::Context;
use crate::machine::Machine;
use crate::outcome::{Failure, Outcome, ensure};
use crate::scenario::{Ground, Scenario};

const LIMIT: u64 = 600;
const PROGRAM: &str = "measure";

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

/// One thing, and how often it is done.
#[derive(Debug, Clone, Copy)]
pub struct Mode {
    /// What the program calls it.
    pub name: &'static str,
    /// A few times.
    pub few: u64,
    /// Many times.
    pub many: u64,
}

/// Everything that the program can do.
pub const MODES: [Mode; 4] = [
    Mode {
        name: "getpid",
        few: 1000,
        many: 101_000,
    },
    Mode {
        name: "switch",
        few: 1000,
        many: 21_000,
    },
    Mode {
        name: "fault",
        few: 1024,
        many: 20_480,
    },
    Mode {
        name: "timer",
        few: 100,
        many: 1100,
    },
];

/// VM exits by reason.
pub type Exits = BTreeMap<String, u64>;

/// What a number of rounds took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// How many there were.
    pub rounds: u64,
    /// By the guest's time-stamp counter.
    pub ticks: u64,
    /// The VM's exits.
    pub exits: Exits,
}

impl Mode {
    /// A tenth of the rounds: enough to see that the program works.
    pub const fn short(self) -> Self {
        Self {
            many: self.few + (self.many - self.few) / 10,
            ..self
        }
    }
}

impl Cost {
    /// What the rounds of `self` took that are not in `few`.
    fn beyond(&self, few: &Self) -> Self {
        Self {
            rounds: self.rounds.saturating_sub(few.rounds),
            ticks: self.ticks.saturating_sub(few.ticks),
            exits: added(&few.exits, &self.exits),
        }
    }

    /// Ticks of one round.
    pub fn ticks_each(&self) -> f64 {
        self.ticks as f64 / self.rounds.max(1) as f64
    }
}

/// What the rounds of `mode` take by themselves.
pub fn measure(machine: &mut Machine<'_>, mode: Mode) -> Outcome<Cost> {
    let few = once(machine, mode.name, mode.few)?;
    let many = once(machine, mode.name, mode.many)?;
    Ok(many.beyond(&few))
}

/// Runs the program once, between two looks at the counters.
fn once(machine: &mut Machine<'_>, name: &str, rounds: u64) -> Outcome<Cost> {
    machine.send(&format!("measure {name} {rounds}"))?;
    machine.expect("measure: ready\n")?;
    let before = exits(machine)?;
    machine.type_line("")?;
    let done = machine.expect(r"measure: done \d+ in \d+ ticks\n")?;
    let after = exits(machine)?;
    machine.type_line("")?;
    let numbers = Regex::new(r"\d+").map_err(|error| Failure::Unmet(error.to_string()))?;
    let numbers: Vec<u64> = numbers
        .find_iter(&done)
        .filter_map(|number| number.as_str().parse().ok())
        .collect();
    let [rounds, ticks] = *numbers else {
        return Err(machine.failure(&format!("{done:?} is no figure")));
    };
    Ok(Cost {
        rounds,
        ticks,
        exits: added(&before, &after),
    })
}

/// What `after` has more than `before`.
fn added(before: &Exits, after: &Exits) -> Exits {
    let more = |(reason, count): (&String, &u64)| {
        let count = count.saturating_sub(before.get(reason).copied().unwrap_or(0));
        (count > 0).then(|| (reason.clone(), count))
    };
    after.iter().filter_map(more).collect()
}

/// The VM's exits up to now; its console is in front again afterwards.
fn exits(machine: &mut Machine<'_>) -> Outcome<Exits> {
    let counters = machine.counters(VM)?;
    let exits = by_reason(&counters)
        .ok_or_else(|| machine.failure(&format!("the counters have no exits: {}", counters.0)))?;
    machine.switch(VM)?;
    Ok(exits)
}

fn by_reason(counters: &Event) -> Option<Exits> {
    let reasons = counters.0.get("exits")?.as_object()?;
    let count =
        |(reason, count): (&String, &serde_json::Value)| Some((reason.clone(), count.as_u64()?));
    reasons.iter().map(count).collect()
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
        let cost = measure(&mut machine, *mode)?;
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
    let complaints = guest::finish(&mut machine)?;
    machine.ensure(complaints.is_empty(), || complaints.join("\n"))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(rounds: u64, ticks: u64, exits: &[(&str, u64)]) -> Cost {
        let exits = exits
            .iter()
            .map(|(reason, count)| ((*reason).to_owned(), *count));
        Cost {
            rounds,
            ticks,
            exits: exits.collect(),
        }
    }

    #[test]
    fn what_is_in_few_rounds_too_falls_out() {
        let few = cost(10, 1500, &[("io", 40), ("hlt", 2)]);
        let many = cost(110, 11_500, &[("io", 40), ("hlt", 1), ("wrmsr", 7)]);
        let each = many.beyond(&few);
        assert_eq!(each, cost(100, 10_000, &[("wrmsr", 7)]));
        assert!((each.ticks_each() - 100.0).abs() < 1e-9);
    }

    #[test]
    fn exits_are_read_by_their_reasons() {
        let event = |value| Event(value);
        let counters = event(serde_json::json!({ "vm": VM, "exits": { "io": 7, "hlt": 2 } }));
        let read = by_reason(&counters).unwrap();
        assert_eq!(read, cost(0, 0, &[("io", 7), ("hlt", 2)]).exits);
        assert_eq!(
            by_reason(&event(serde_json::json!({ "exits": { "io": "7" } }))),
            None
        );
    }
}
