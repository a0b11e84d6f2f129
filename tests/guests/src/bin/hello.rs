//! The smallest guest: says hello, with its command line's `name=`, and powers off; `then=reset` or `then=halt` ends it
//! otherwise.
#![no_std]
#![no_main]

use test_guests::params::Params;
use test_guests::{guest, power, println};

guest!(main);

fn main(params: &Params) {
    println!(
        "hello from a guest named {}",
        params.get("name").unwrap_or("nobody")
    );
    match params.get("then") {
        Some("reset") => power::reset(),
        Some("halt") => power::halt(),
        _ => println!("case hello: ok"),
    }
}
