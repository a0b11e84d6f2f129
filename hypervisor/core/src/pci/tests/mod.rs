//! Machines made up of configuration spaces: a q35, a desktop with switches, and one that lies.

mod address;
mod enumerate;
pub(crate) mod fake;
mod groups;
pub(crate) mod machines;
mod quiesce;
mod reset_run;
mod virtual_config;

use super::{Address, Groups, HostBridge, Inventory, enumerate as walk};
use fake::Fake;

/// The address that a test writes down.
pub(crate) fn at(text: &str) -> Address {
    Address::parse(text).unwrap()
}

/// All that answers on segment 0.
pub(crate) fn inventory_of(fake: &mut Fake) -> Inventory {
    let all = HostBridge {
        segment: 0,
        first_bus: 0,
        last_bus: 0xff,
    };
    walk(fake, &[all])
}

fn groups_of(fake: &mut Fake) -> Vec<Vec<String>> {
    let groups = Groups::new(&inventory_of(fake));
    let names = |group: &Vec<Address>| -> Vec<String> {
        let short = |address: &Address| address.to_string()[5..].to_owned();
        group.iter().map(short).collect()
    };
    groups.all().iter().map(names).collect()
}
