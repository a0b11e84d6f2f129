//! Drives virtio devices: as it should be done, and in every way it should not; `case=` chooses.
//!
//! - `list` prints each PCI function, `block`, `rng`, `console` and `net` use a device (their modules say how);
//! - `corrupt-<n>` does the nth of the wrong things to a device, `corrupt` one after the other, see [`corrupt`];
//! - `exhaust` fills queues for ever, `io` reads and writes for ever.
#![no_std]
#![no_main]

mod block;
mod corrupt;
mod endless;
mod net;
mod other;

use test_guests::case::Case;
use test_guests::params::Params;
use test_guests::{apic, guest, pci, println};

guest!(main);

type CaseFn = fn(&mut Case, &Params);

const CASES: &[(&str, CaseFn)] = &[
    ("list", list),
    ("block", block::pattern),
    ("block-read-only", block::read_only),
    ("rng", other::entropy),
    ("console", other::console),
    ("net", net::roles),
    ("corrupt", corrupt::all),
    ("exhaust", endless::exhaust),
    ("io", endless::io),
];
/// Prefix of the cases that do one wrong thing.
const CORRUPT: &str = "corrupt-";

fn main(params: &Params) {
    pci::find(params);
    if let Err(fault) = apic::enable() {
        println!("case virtio: FAIL x2APIC mode refused: {fault}");
        return;
    }
    let wanted = params.get("case").unwrap_or("list");
    if let Some(number) = wanted.strip_prefix(CORRUPT) {
        let mut case = Case::start("corrupt");
        match number.parse() {
            Ok(number) => corrupt::one(&mut case, params, number),
            Err(_) => case.check(false, format_args!("'{number}' is no number")),
        }
        case.finish();
        return;
    }
    let Some(&(name, run)) = CASES.iter().find(|(name, _)| *name == wanted) else {
        println!("case runtime: FAIL no case named '{wanted}'");
        return;
    };
    let mut case = Case::start(name);
    run(&mut case, params);
    case.finish();
}

/// Prints `pci: device <n> is <vendor>:<device>` for each function; both ways to configuration space agree.
fn list(case: &mut Case, _: &Params) {
    for function in pci::functions() {
        println!(
            "pci: device {} is {:04x}:{:04x}",
            function.0,
            function.vendor(),
            function.device()
        );
        for offset in (0..256).step_by(4) {
            let (here, there) = (function.read(offset), function.read_by_port(offset));
            case.check(
                here == there,
                format_args!("at {offset:#x} the window has {here:#x}, the ports {there:#x}"),
            );
        }
    }
}
