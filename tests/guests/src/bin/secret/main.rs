//! A guest with something to hide: a page that nobody else can know, and memory enough to work over until it is long out of use.
//!
//! `seed=` gives the page its content. Once it is written the guest says `secret: ready, at 0x…`, and from then on does what is
//! typed, a line at a time:
//!
//! - `touch` reads the page: `secret: touched`;
//! - `check` reads the page and everything that was swept: `secret: intact`, or what differs and `secret: FAIL`;
//! - `change SEED` writes the page anew: `secret: changed`;
//! - `sweep` reads and writes a word in every page of the other memory, each for the next time: `secret: swept <n> pages`;
//! - `scan SEED` looks in all of its memory for words of another guest's page: see [`scan`];
//! - `read ADDRESS` reads a word there: `secret: read …`; where it has no memory, it is stopped for it;
//! - `off` ends it.
//!
//! Numbers are decimal, or hexadecimal after `0x`.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "reads and writes memory that is no object")]

mod line;
mod memory;
mod scan;

use test_guests::params::Params;
use test_guests::random::SEED;
use test_guests::trap::Fault;
use test_guests::{apic, cpu, guest, println, timer};

use line::Line;
use memory::{PAGE, SECRET, Secret, Sweep};

guest!(main);

/// Looks at the console so many times a second.
const LOOKS_PER_SECOND: u64 = 200;

fn main(params: &Params) {
    if let Err(fault) = apic::enable().and_then(|()| obey(params)) {
        println!("case runtime: FAIL {fault}");
    }
}

fn obey(params: &Params) -> Result<(), Fault> {
    let mut secret = Secret::write(params.number("seed").unwrap_or(SEED));
    let mut sweep = Sweep::of(params.ram_end());
    println!("secret: ready, at {SECRET:#x}");
    let mut line = Line::default();
    loop {
        let Some(command) = line.read() else {
            wait()?;
            continue;
        };
        match command {
            ("check", None) => {
                let intact = secret.is_intact() & sweep.is_intact();
                println!("secret: {}", if intact { "intact" } else { "FAIL" });
            }
            ("touch", None) => {
                let verdict = if secret.is_intact() {
                    "touched"
                } else {
                    "FAIL"
                };
                println!("secret: {verdict}");
            }
            ("change", Some(seed)) => {
                secret = Secret::write(seed);
                println!("secret: changed");
            }
            ("sweep", None) => {
                let pages = sweep.again();
                println!("secret: swept {pages} pages");
            }
            ("scan", Some(seed)) => scan::all(seed, params.ram_end()),
            ("read", Some(address)) => {
                println!("secret: reading {address:#x}");
                println!("secret: read {:#x}", memory::read(address & !(PAGE - 1)));
            }
            ("off", None) => return Ok(()),
            (word, _) => println!("secret: no command `{word}`"),
        }
        line.clear();
    }
}

/// Sleeps until it is time to look at the console again.
fn wait() -> Result<(), Fault> {
    let period = timer::frequency() / LOOKS_PER_SECOND;
    let before = timer::count();
    timer::arm(cpu::ticks().saturating_add(period))?;
    timer::sleep_until(u64::MAX, || timer::count() != before);
    Ok(())
}
