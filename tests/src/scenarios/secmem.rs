//! What belongs to a VM is readable to that VM only: attacks on its memory, each beside a control in which it succeeds.
//!
//! The attackers are another VM, the operator at the console (`operator`) and whoever reads or writes the machine's memory from
//! outside ([`crate::physical`]). The one attacked is the guest `secret`, which has a page that nobody can know (`victim`).
//! `hidden` looks for that page, `tamper` changes it, `keys` looks for what it is encrypted with, `life` at what is left of
//! it, and `linux` shows that a Linux does not mind.

mod hidden;
mod keys;
mod life;
mod linux;
mod operator;
mod tamper;
mod victim;

use crate::scenario::Scenario;

pub fn scenarios() -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    scenarios.extend(linux::scenarios());
    scenarios.extend(life::scenarios());
    scenarios.extend(tamper::scenarios());
    scenarios.extend(hidden::scenarios());
    scenarios.extend(keys::scenarios());
    scenarios
}
