//! All RAM that neither the loader nor this image uses: whether it is zero at the start, and something to leave behind.
//!
//! Prints `memory: <n> bytes, <m> of them not zero`; with `fill=1` it then writes a secret everywhere and prints the line once
//! more. Ends, or with `then=wait` sleeps for good.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "reads and writes any RAM")]

use test_guests::params::Params;
use test_guests::{cpu, guest, println};

guest!(main);

/// What is left in memory, 16 bytes of it over and over.
const SECRET: [u64; 2] = [0x7465_7263_6573_2061, 0x6e65_7474_6972_7720];
const WORD: usize = size_of::<u64>();

/// Behind what the loader writes into the first 640 KiB, up to the ACPI tables.
const LOW: (u64, u64) = (0x2_0000, 0xe_0000);
/// From the ACPI tables to the reset vector.
const HIGH: (u64, u64) = (0xf_0000, 0xf_fff0);

unsafe extern "C" {
    /// The end of this image and of its stack (`guest.ld`).
    safe static image_end: u8;
}

fn main(params: &Params) {
    report(params);
    if params.number("fill") == Some(1) {
        for (word, secret) in words(params).zip(SECRET.iter().cycle()) {
            // SAFETY: RAM that nothing else of this guest uses.
            unsafe { word.write_volatile(*secret) };
        }
        report(params);
    }
    if params.get("then") == Some("wait") {
        loop {
            cpu::halt_for_interrupt();
        }
    }
}

fn report(params: &Params) {
    let (mut bytes, mut others) = (0, 0);
    for word in words(params) {
        // SAFETY: RAM that nothing else of this guest uses.
        let found = unsafe { word.read_volatile() };
        bytes += WORD;
        others += found
            .to_ne_bytes()
            .iter()
            .filter(|byte| **byte != 0)
            .count();
    }
    println!("memory: {bytes} bytes, {others} of them not zero");
}

/// Every word of that RAM.
fn words(params: &Params) -> impl Iterator<Item = *mut u64> {
    let behind = (&raw const image_end as u64).next_multiple_of(size_of_val(&SECRET) as u64);
    [LOW, HIGH, (behind, params.ram_end())]
        .into_iter()
        .flat_map(|(start, end)| (start..end).step_by(WORD))
        .map(|address| address as *mut u64)
}
