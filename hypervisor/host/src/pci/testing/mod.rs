//! Machines made up of configuration spaces: a q35, a desktop with switches, and one that lies.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test ends where this is used wrongly, and reads it beside its own code"
)]

pub mod fake;
pub mod machines;

use super::{Address, HostBridge, Inventory, enumerate};
use fake::Fake;

/// The address that a test writes down.
pub fn at(text: &str) -> Address {
    Address::parse(text).unwrap()
}

/// All that answers on segment 0.
pub fn inventory_of(fake: &mut Fake) -> Inventory {
    let all = HostBridge {
        segment: 0,
        first_bus: 0,
        last_bus: 0xff,
    };
    enumerate(fake, &[all])
}
