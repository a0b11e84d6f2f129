//! What one thing that user mode does takes: exits, by reason, and ticks. A program does it in a Linux guest between two looks at the VM's counters
//! (`tests/programs/measure`), once a few times and once many times: what is not of the thing itself is in both and falls out.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::Error;
use crate::session::events::Event;

/// The program, as the guest has it in its path.
pub const PROGRAM: &str = "measure";

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// How many there were.
    pub rounds: u64,
    /// By the guest's time-stamp counter.
    pub ticks: u64,
    /// The VM's exits.
    pub exits: Exits,
}

/// A Linux at its prompt, with the program.
pub trait Guest {
    /// What goes wrong.
    type Error: From<Error>;

    /// Types a line at the next shell prompt.
    fn send(&mut self, line: &str) -> Result<(), Self::Error>;
    /// Ends a line at once.
    fn enter(&mut self) -> Result<(), Self::Error>;
    /// Waits for what matches; returns that.
    fn expect(&mut self, pattern: &str) -> Result<String, Self::Error>;
    /// The VM's exits up to now; its console is in front again afterwards.
    fn exits(&mut self) -> Result<Exits, Self::Error>;
}

impl Mode {
    /// A tenth of the rounds: enough to see whether anything exits.
    #[must_use]
    pub const fn short(self) -> Self {
        Self {
            many: self.few + (self.many - self.few) / 10,
            ..self
        }
    }

    /// What its rounds take by themselves.
    ///
    /// # Errors
    /// Where the guest does not answer, or says something else.
    pub fn measure<G: Guest>(self, guest: &mut G) -> Result<Cost, G::Error> {
        let few = self.once(guest, self.few)?;
        let many = self.once(guest, self.many)?;
        Ok(many.beyond(&few))
    }

    /// Runs the program once, between two looks at the counters.
    fn once<G: Guest>(self, guest: &mut G, rounds: u64) -> Result<Cost, G::Error> {
        guest.send(&format!("{PROGRAM} {} {rounds}", self.name))?;
        guest.expect("measure: ready\n")?;
        let before = guest.exits()?;
        guest.enter()?;
        let done = guest.expect(r"measure: done \d+ in \d+ ticks\n")?;
        let after = guest.exits()?;
        guest.enter()?;
        let mut numbers = done.split(' ').filter_map(|word| word.parse().ok());
        let (Some(rounds), Some(ticks)) = (numbers.next(), numbers.next()) else {
            return Err(Error::Run(format!("{done:?} is no figure")).into());
        };
        Ok(Cost {
            rounds,
            ticks,
            exits: added(&before, &after),
        })
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
    #[must_use]
    pub fn ticks_each(&self) -> f64 {
        self.ticks as f64 / self.rounds.max(1) as f64
    }

    /// Exits that are neither the hypervisor's own clock nor the guest's: what these take is a matter of time, and not of what was done meanwhile.
    pub fn caused(&self) -> impl Iterator<Item = (&str, u64)> {
        const OF_TIME: [&str; 5] = ["preemption-timer", "wrmsr", "hlt", "io", "rdmsr"];
        let exits = self.exits.iter();
        exits
            .map(|(reason, count)| (reason.as_str(), *count))
            .filter(|(reason, _)| !OF_TIME.contains(reason))
    }
}

/// What `after` has more than `before`.
fn added(before: &Exits, after: &Exits) -> Exits {
    let more = |(reason, count): (&String, &u64)| {
        let count = count.saturating_sub(before.get(reason).copied().unwrap_or(0));
        (count > 0).then(|| (reason.clone(), count))
    };
    after.iter().filter_map(more).collect()
}

/// The exits that a `counters` event tells of.
#[must_use]
pub fn by_reason(counters: &Event) -> Option<Exits> {
    let reasons = counters.0.get("exits")?.as_object()?;
    let count =
        |(reason, count): (&String, &serde_json::Value)| Some((reason.clone(), count.as_u64()?));
    reasons.iter().map(count).collect()
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
        assert_eq!(each.caused().count(), 0);
        let switched = cost(1, 1, &[("ept-violation", 2), ("wrmsr", 7)]);
        assert!(switched.caused().eq([("ept-violation", 2)]));
    }

    #[test]
    fn exits_are_read_by_their_reasons() {
        let event = |value| Event(value);
        let counters = event(serde_json::json!({ "vm": "linux", "exits": { "io": 7, "hlt": 2 } }));
        let read = by_reason(&counters).unwrap();
        assert_eq!(read, cost(0, 0, &[("io", 7), ("hlt", 2)]).exits);
        assert_eq!(
            by_reason(&event(serde_json::json!({ "exits": { "io": "7" } }))),
            None
        );
    }

    /// A guest that says what it is told to.
    struct Script {
        typed: Vec<String>,
        io: u64,
    }

    impl Guest for Script {
        type Error = Error;

        fn send(&mut self, line: &str) -> Result<(), Error> {
            self.typed.push(line.to_owned());
            Ok(())
        }

        fn enter(&mut self) -> Result<(), Error> {
            Ok(())
        }

        fn expect(&mut self, pattern: &str) -> Result<String, Error> {
            let rounds = self.typed.last().and_then(|line| line.rsplit(' ').next());
            let rounds: u64 = rounds.and_then(|word| word.parse().ok()).unwrap_or(0);
            match pattern.contains("done") {
                true => Ok(format!("measure: done {rounds} in {} ticks\n", 7 * rounds)),
                false => Ok(pattern.to_owned()),
            }
        }

        fn exits(&mut self) -> Result<Exits, Error> {
            self.io += 1;
            Ok([("io".to_owned(), self.io)].into())
        }
    }

    #[test]
    fn the_program_is_run_with_few_rounds_and_with_many() {
        let mut script = Script {
            typed: Vec::new(),
            io: 0,
        };
        let found = MODES[0].measure(&mut script).unwrap();
        assert_eq!(found, cost(100_000, 700_000, &[]));
        assert_eq!(
            script.typed,
            ["measure getpid 1000", "measure getpid 101000"]
        );
    }
}
