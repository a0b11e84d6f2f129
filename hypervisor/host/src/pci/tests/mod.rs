//! Finding functions, keeping them apart, silencing and resetting them, on machines made of code.

mod address;
mod enumerate;
mod groups;
mod quiesce;
mod reset_run;

use super::testing::fake::Fake;
use super::testing::inventory_of;
use super::{Address, Groups};

fn groups_of(fake: &mut Fake) -> Vec<Vec<String>> {
    let groups = Groups::new(&inventory_of(fake));
    let names = |group: &Vec<Address>| -> Vec<String> {
        let short = |address: &Address| address.to_string()[5..].to_owned();
        group.iter().map(short).collect()
    };
    groups.all().iter().map(names).collect()
}
