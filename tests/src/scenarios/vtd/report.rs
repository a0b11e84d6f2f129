//! What the device tests said, what the units recorded meanwhile, and what QEMU's IOMMU says that it refused: compared.
//!
//! The events are the hypervisor's word. [`Refusal`]s are not: QEMU notes each transfer that its IOMMU refuses, whether or
//! not a record was free for it.

use std::collections::BTreeSet;
use std::fmt;

use xtask::session::events::Event;

/// Codes from here on are of interrupts ("Fault Reason Encodings for Interrupt Requests").
const FIRST_OF_INTERRUPTS: u64 = 0x20;
const PAGE: u64 = 0x1000;

/// A case of the device tests.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What the units have to record while it runs.
    pub faults: Faults,
}

/// Faults that a case causes.
#[derive(Debug, Clone, Copy)]
pub enum Faults {
    /// None.
    None,
    /// One, with one of these codes.
    One(&'static [u64]),
    /// At least one, with one of these codes.
    Many(&'static [u64]),
}

/// A transfer that was not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// The device, as `bus << 8 | device << 3 | function`.
    pub source: u16,
    /// The reason, by its number.
    pub code: u64,
    /// The page that it was after.
    pub page: u64,
    /// It wanted to write.
    pub write: bool,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            source,
            code,
            page,
            write,
        } = self;
        let access = if *write { "write to" } else { "read of" };
        write!(f, "{}: {access} {page:#x}, reason {code:#x}", name(*source))
    }
}

/// A source as the hypervisor writes it.
pub fn name(source: u16) -> String {
    format!(
        "{:02x}:{:02x}.{}",
        source >> 8,
        source >> 3 & 0x1f,
        source & 7
    )
}

/// What in `events` is not as `cases` have it, in words. `attacker` is the one device that may cause faults.
pub fn complaints(cases: &[Case], events: &[Event], attacker: u16) -> Vec<String> {
    let mut found = Vec::new();
    let mut reports: Vec<(&Event, Vec<&Event>)> = Vec::new();
    let mut faults = Vec::new();
    for event in events {
        match event.name() {
            "dma-fault" => faults.push(event),
            "self-test" => reports.push((event, std::mem::take(&mut faults))),
            _ => {}
        }
    }
    if let Some(fault) = faults.first() {
        found.push(format!("a fault in no case: {}", fault.0));
    }
    for case in cases {
        let mut mine = reports
            .iter()
            .filter(|(report, _)| report.text("case") == case.name);
        match (mine.next(), mine.next()) {
            (Some((report, faults)), None) => {
                found.extend(case.complaints(report, faults, attacker))
            }
            (None, _) => found.push(format!("{}: did not run", case.name)),
            (Some(_), Some(_)) => found.push(format!("{}: ran twice", case.name)),
        }
    }
    let known = |name: &str| cases.iter().any(|case| case.name == name);
    for (report, _) in &reports {
        if !known(report.text("case")) {
            found.push(format!("nobody expects {}", report.0));
        }
    }
    found
}

impl Case {
    fn complaints(&self, report: &Event, faults: &[&Event], attacker: u16) -> Vec<String> {
        let mut found = Vec::new();
        let mut complain = |what: String| found.push(format!("{}: {what}", self.name));
        if report.text("outcome") != "ok" {
            complain(format!(
                "{}: {}",
                report.text("outcome"),
                report.text("detail")
            ));
        }
        let codes = match self.faults {
            Faults::None => &[],
            Faults::One(codes) | Faults::Many(codes) => codes,
        };
        let enough = match self.faults {
            Faults::None => faults.is_empty(),
            Faults::One(_) => faults.len() == 1,
            Faults::Many(_) => !faults.is_empty(),
        };
        if !enough {
            complain(format!("{} faults", faults.len()));
        }
        for fault in faults {
            let code = fault.number("code");
            if fault.text("source") != name(attacker)
                || !code.is_some_and(|code| codes.contains(&code))
            {
                complain(format!("the fault is {}", fault.0));
            }
        }
        found
    }
}

/// What QEMU's `log` says that its IOMMU refused: lines `vtd_dmar_fault sid 0x80 fault 5 addr 0x7000 write 1`.
pub fn refusals(log: &str) -> BTreeSet<Refusal> {
    let line = |line: &str| {
        let mut words = line.strip_prefix("vtd_dmar_fault ")?.split_whitespace();
        let mut value = |key: &str| {
            words
                .next()
                .filter(|word| *word == key)
                .and_then(|_| words.next())
        };
        Some(Refusal {
            source: u16::try_from(hexadecimal(value("sid")?)?).ok()?,
            code: value("fault")?.parse().ok()?,
            page: hexadecimal(value("addr")?)? & !(PAGE - 1),
            write: value("write")? == "1",
        })
    };
    log.lines().filter_map(line).collect()
}

/// What the hypervisor's events say that was refused; interrupts are not among it.
pub fn told(events: &[Event]) -> BTreeSet<Refusal> {
    let refusal = |event: &Event| {
        let source = event.text("source");
        let (bus, rest) = source.split_once(':')?;
        let (device, function) = rest.split_once('.')?;
        let [bus, device, function] =
            [bus, device, function].map(|part| u16::from_str_radix(part, 16).ok());
        Some(Refusal {
            source: bus? << 8 | device? << 3 | function?,
            code: event.number("code")?,
            page: hexadecimal(event.text("at"))?,
            write: event.text("access") == "write",
        })
    };
    events
        .iter()
        .filter(|event| event.name() == "dma-fault")
        .filter_map(refusal)
        .filter(|refusal| refusal.code < FIRST_OF_INTERRUPTS)
        .collect()
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ATTACKER: u16 = 0x80;
    const CASES: [Case; 3] = [
        Case {
            name: "inside",
            faults: Faults::None,
        },
        Case {
            name: "outside",
            faults: Faults::One(&[5]),
        },
        Case {
            name: "flood",
            faults: Faults::Many(&[5]),
        },
    ];

    fn case(name: &str, outcome: &str) -> Event {
        Event(json!({ "event": "self-test", "case": name, "outcome": outcome, "detail": "why" }))
    }

    fn fault(source: &str, code: u64) -> Event {
        Event(
            json!({ "event": "dma-fault", "unit": 0, "source": source, "vm": "", "access": "write",
            "reason": "no write permission", "code": code, "interrupt": code >= 0x20, "at": "0x7000", "untold": 0 }),
        )
    }

    fn good() -> Vec<Event> {
        vec![
            Event(json!({ "event": "boot" })),
            case("inside", "ok"),
            fault("00:10.0", 5),
            case("outside", "ok"),
            fault("00:10.0", 5),
            fault("00:10.0", 5),
            case("flood", "ok"),
        ]
    }

    #[test]
    fn a_run_in_which_everything_is_as_expected_has_nothing_to_complain_of() {
        assert_eq!(complaints(&CASES, &good(), ATTACKER), [""; 0]);
    }

    #[test]
    fn each_deviation_is_named() {
        let changed = |change: &dyn Fn(&mut Vec<Event>)| {
            let mut events = good();
            change(&mut events);
            complaints(&CASES, &events, ATTACKER)
        };
        let missing = changed(&|events| drop(events.remove(1)));
        assert_eq!(missing, ["inside: did not run"]);
        let failed = changed(&|events| events[1] = case("inside", "failed"));
        assert_eq!(failed, ["inside: failed: why"]);
        let skipped = changed(&|events| events[1] = case("inside", "skipped"));
        assert_eq!(skipped, ["inside: skipped: why"]);
        let none = changed(&|events| drop(events.remove(2)));
        assert_eq!(none, ["outside: 0 faults"]);
        let two = changed(&|events| events.insert(2, fault("00:10.0", 5)));
        assert_eq!(two, ["outside: 2 faults"]);
        let other_source = changed(&|events| events[2] = fault("00:11.0", 5));
        assert!(
            other_source[0].starts_with("outside: the fault is {"),
            "{other_source:?}"
        );
        let other_code = changed(&|events| events[2] = fault("00:10.0", 6));
        assert!(
            other_code[0].starts_with("outside: the fault is {"),
            "{other_code:?}"
        );
        let late = changed(&|events| events.push(fault("00:10.0", 5)));
        assert!(late[0].starts_with("a fault in no case"), "{late:?}");
        let more = changed(&|events| events.push(case("new", "ok")));
        assert!(more[0].starts_with("nobody expects"), "{more:?}");
        let twice = changed(&|events| events.push(case("inside", "ok")));
        assert_eq!(twice, ["inside: ran twice"]);
    }

    #[test]
    fn what_was_refused_is_read_from_both_sides_and_compares() {
        let log = "qemu: something else\nvtd_dmar_fault sid 0x80 fault 5 addr 0x7010 write 1\n\
                   vtd_dmar_fault sid 0x80 fault 5 addr 0x7018 write 1\nvtd_dmar_fault sid broken\n";
        let refused = refusals(log);
        assert_eq!(refused, told(&good()));
        let [one] = Vec::from_iter(refused)[..] else {
            panic!("not one")
        };
        assert_eq!(one.to_string(), "00:10.0: write to 0x7000, reason 0x5");
        // An interrupt's place is an index.
        assert!(told(&[fault("00:10.0", 0x25)]).is_empty());
    }
}
