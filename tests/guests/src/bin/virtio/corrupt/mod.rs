//! Fifty wrong things to do to a block device: in chains, in rings, in its set-up and its place on the bus.
//!
//! Each is done to a device that was just set up. Whatever the device then does (it may ask for a reset), this guest goes
//! on, and a device reset works again. Prints `corrupt-<n> <name>: survived, status <device status>`.

mod bus;
mod chains;
mod indirect;
mod rings;
mod victim;

use test_guests::case::Case;
use test_guests::params::Params;
use test_guests::println;

use victim::Victim;

type Way = (&'static str, fn(&mut Victim));

/// How many there are.
const COUNT: usize = 50;

/// The nth of all of them.
fn way(number: usize) -> Option<Way> {
    let all = [
        &chains::WAYS[..],
        &indirect::WAYS[..],
        &rings::WAYS[..],
        &bus::WAYS[..],
    ];
    all.into_iter().flatten().nth(number).copied()
}

const _: () = assert!(
    chains::WAYS.len() + indirect::WAYS.len() + rings::WAYS.len() + bus::WAYS.len() == COUNT
);

/// All of them, one after the other.
pub(crate) fn all(case: &mut Case, params: &Params) {
    for number in 0..COUNT {
        one(case, params, number);
    }
}

/// The one with this number.
pub(crate) fn one(case: &mut Case, params: &Params, number: usize) {
    let Some((name, run)) = way(number) else {
        case.check(false, format_args!("there are {COUNT} ways, not {number}"));
        return;
    };
    let mut victim = match Victim::open(params) {
        Ok(victim) => victim,
        Err(error) => {
            case.check(false, format_args!("{number} {name}, before: {error}"));
            return;
        }
    };
    run(&mut victim);
    println!(
        "corrupt-{number} {name}: survived, status {:#x}",
        victim.status()
    );
    let works = victim.works_again();
    case.check(
        works.is_ok(),
        format_args!("{number} {name}, afterwards: {works:?}"),
    );
}
