//! What a machine told of its TPM: the log of measurements, and what the PCRs hold, which have to agree.

use bulkhead_tpm::event_log::{EventLog, LoggedEvent};
use bulkhead_tpm::measurement::OWN_PCRS;
use bulkhead_tpm::{Digest, PcrSet, PcrValues};
use xtask::session::events::Event;

use crate::machine::Machine;
use crate::manifest::sha256;
use crate::outcome::{Failure, Outcome, ensure};

/// `EV_SEPARATOR`, and what it is extended by here.
const SEPARATOR: u32 = 4;
const SEPARATOR_DATA: [u8; 4] = [0; 4];
/// PCRs that firmware and Bulkhead measure into.
const USED: PcrSet = PcrSet::of(&[0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13]);

/// The log replays to what the PCRs hold, and ends Bulkhead's own with a separator, once.
pub fn ensure_closed(machine: &mut Machine<'_>) -> Outcome {
    let bytes = whole_log(&machine.events())?;
    let log = EventLog::parse(&bytes).map_err(unmet)?;
    let events = log.events().collect::<Result<Vec<_>, _>>().map_err(unmet)?;
    let closes = |event: &&LoggedEvent<'_>| {
        event.kind == SEPARATOR && event.sha256 == Some(Digest::of(&[&SEPARATOR_DATA]))
    };
    for pcr in OWN_PCRS.iter() {
        let own = || events.iter().filter(|event| event.pcr == u32::from(pcr));
        let closed =
            own().filter(closes).count() == 1 && own().next_back().is_some_and(|e| closes(&e));
        machine.ensure(closed, || format!("PCR {pcr} was not closed"))?;
    }
    let replayed = log.replay().map_err(unmet)?;
    machine.ensure(USED.without(replayed.set()).is_empty(), || {
        format!("few PCRs are in the log: {:?}", replayed.set())
    })?;
    for (pcr, value) in replayed.iter() {
        let told = told(machine, pcr);
        machine.ensure(told == value.to_string(), || {
            format!("PCR {pcr}: {told:?} in the TPM, {value} by the log")
        })?;
    }
    Ok(())
}

/// These files, by name, PCR and contents, were measured one after the other and nothing else: each is alone in its PCR.
pub fn ensure_measured(machine: &mut Machine<'_>, files: &[(&str, u8, &[u8])]) -> Outcome {
    for (number, (what, pcr, bytes)) in files.iter().enumerate() {
        let event = machine.event("measurement", number)?;
        let right = event.text("what") == *what
            && event.number("pcr") == Some((*pcr).into())
            && event.text("sha256") == sha256(bytes);
        machine.ensure(right, || format!("{what} was to be measured: {}", event.0))?;
        // What the TPM did, done here.
        let mut expected = PcrValues::default();
        for measured in [*bytes, &SEPARATOR_DATA] {
            expected.extend(*pcr, &Digest::of(&[measured]).0);
        }
        let told = told(machine, *pcr);
        let expected = expected.get(*pcr).map(ToString::to_string);
        machine.ensure(expected.as_ref() == Some(&told), || {
            format!("PCR {pcr} does not hold {what}: {told:?}")
        })?;
    }
    let count = machine.count("measurement", |_| true);
    machine.ensure(count == files.len(), || {
        format!("{count} files were measured")
    })
}

/// What the machine says that `pcr` holds; empty where it does not.
fn told(machine: &mut Machine<'_>, pcr: u8) -> String {
    let is_it =
        |event: &&Event| event.name() == "tpm-pcr" && event.number("pcr") == Some(pcr.into());
    let events = machine.events();
    let event = events.iter().find(is_it);
    event.map_or_else(String::new, |event| event.text("sha256").to_owned())
}

fn unmet(error: impl ToString) -> Failure {
    Failure::Unmet(error.to_string())
}

/// The log, from its pieces.
fn whole_log(events: &[Event]) -> Outcome<Vec<u8>> {
    let mut log = Vec::new();
    let mut length = None;
    for piece in events.iter().filter(|event| event.name() == "tpm-log") {
        ensure(piece.number("at") == Some(log.len() as u64), || {
            format!("a piece of the log is missing before {}", piece.0)
        })?;
        length = piece.number("of");
        let digits = piece.text("bytes");
        let bytes = (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&digits[at..at + 2], 16));
        for byte in bytes {
            log.push(byte.map_err(|error| Failure::Unmet(error.to_string()))?);
        }
    }
    ensure(length == Some(log.len() as u64), || {
        format!("{} bytes of a log of {length:?}", log.len())
    })?;
    Ok(log)
}
