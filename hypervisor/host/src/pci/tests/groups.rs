//! Groups: the known ones, and what every division keeps to.

use std::collections::BTreeSet;

use super::super::capability::Acs;
use super::super::groups::{Groups, acs_settings, links};
use super::super::inventory::Inventory;
use super::super::testing::fake::{Fake, Space};
use super::super::testing::machines::{FULL, desktop, hostile, q35};
use super::super::testing::{at, inventory_of};
use super::groups_of;
use crate::testing::Random;

#[test]
fn functions_of_a_device_without_access_control_belong_together() {
    assert_eq!(
        groups_of(&mut q35()),
        [
            vec!["00:00.0"],
            vec!["00:02.0"],
            vec!["00:03.0"],
            vec!["00:04.0"],
            vec!["00:1f.0", "00:1f.2", "00:1f.3"],
        ]
    );
}

#[test]
fn switches_divide_as_far_as_their_ports_redirect() {
    assert_eq!(
        groups_of(&mut desktop()),
        [
            vec!["00:01.0"],
            vec!["00:02.0"],
            vec!["00:03.0", "09:00.0", "09:00.1"],
            vec!["00:04.0"],
            vec!["00:1c.0"],
            vec!["00:1c.1"],
            vec!["01:00.0"],
            vec!["02:00.0"],
            vec!["02:01.0"],
            vec!["03:00.0"],
            vec!["04:00.0"],
            vec!["05:00.0", "06:00.0", "06:01.0", "07:00.0", "08:00.0"],
            vec!["0a:00.0", "0b:00.0", "0b:01.0"],
            vec!["0c:00.0"],
            vec!["0d:00.0"],
            vec!["0d:00.1"],
        ]
    );
}

#[test]
fn what_a_lying_bridge_claims_is_one_group() {
    let groups = groups_of(&mut hostile());
    let of = |place: &str| {
        groups
            .iter()
            .find(|group| group.iter().any(|member| member == place))
    };
    assert_eq!(of("04:00.0"), of("00:10.0"));
    // Bus 0 is among what a bridge claims, so all of it may be behind that.
    assert_eq!(of("00:00.0"), of("00:11.0"));
    assert_eq!(of("28:00.0"), of("00:13.0"));
    assert_eq!(of("20:01.0"), of("00:12.0"));
}

#[test]
fn all_that_keeps_apart_is_switched_on() {
    let inventory = inventory_of(&mut desktop());
    let settings = acs_settings(&inventory);
    assert_eq!(settings.len(), 11);
    let of = |place| {
        *settings
            .iter()
            .find(|one| one.function == at(place))
            .unwrap()
    };
    assert_eq!((of("00:01.0").at, of("00:01.0").value), (0x106, FULL));
    assert_eq!(of("0d:00.1").value, Acs::REQUEST_REDIRECT);
}

/// A tree of ports and devices in which everything that matters is drawn by lot.
fn random_machine(random: &mut Random) -> Fake {
    let mut fake = Fake::default();
    let mut next_bus = 1;
    fill(&mut fake, random, 0, &mut next_bus);
    fake
}

/// Puts devices and bridges on `bus`, and on the buses behind those.
fn fill(fake: &mut Fake, random: &mut Random, bus: u8, next_bus: &mut u8) {
    for device in 0..1 + random.below(4) {
        let several = random.one_in(3);
        for number in 0..if several { 2 } else { 1 } {
            let is_bridge = random.one_in(2) && *next_bus < 60;
            let mut space = if is_bridge {
                let secondary = *next_bus;
                *next_bus += 1;
                fill(fake, random, secondary, next_bus);
                // Now and then a bridge lies.
                let lie = u8::from(random.one_in(30));
                Space::bridge(0x1234_0001, secondary, *next_bus - 1 + lie)
            } else {
                Space::new(0x1234_0000, 0x02_0000)
            };
            if several {
                space = space.several();
            }
            if !random.one_in(5) {
                let port = if is_bridge {
                    random.of(&[4, 4, 5, 6, 6, 7, 8])
                } else {
                    0
                };
                space = space.express(0x40, port, random.one_in(2));
                if !random.one_in(3) {
                    space = space.acs(Acs::from_bits_truncate(random.of(&[0, 1, 0x1f, 0x1d])));
                }
            }
            let place = format!("{bus:02x}:{device:02x}.{number}");
            fake.functions.insert(at(&place), space);
        }
    }
}

fn check(inventory: &Inventory) {
    let groups = Groups::new(inventory);
    let links = links(inventory);
    // Every function is in one group, and no group is empty.
    let mut members: Vec<_> = groups.all().concat();
    members.sort();
    assert!(
        members.iter().eq(inventory
            .functions()
            .iter()
            .map(|function| &function.address))
    );
    assert!(
        groups
            .all()
            .iter()
            .all(|group| !group.is_empty() && group.is_sorted())
    );
    // No link leaves a group.
    for link in &links {
        assert_eq!(groups.of(link.one), groups.of(link.other), "{link:?}");
    }
    // Links reach all of a group from its first.
    for group in groups.all() {
        let mut reached = BTreeSet::from([group[0]]);
        loop {
            let before = reached.len();
            for link in &links {
                if reached.contains(&link.one) || reached.contains(&link.other) {
                    reached.extend([link.one, link.other]);
                }
            }
            if reached.len() == before {
                break;
            }
        }
        assert!(reached.iter().eq(group.iter()));
    }
    // Functions that share a source id share a group.
    for function in inventory.functions() {
        for requester in inventory.requesters(function) {
            if groups.of(requester).is_some() {
                assert_eq!(groups.of(requester), groups.of(function.address));
            }
        }
    }
}

#[test]
fn groups_divide_the_functions_and_no_link_leaves_one() {
    let mut random = Random(0x5eed_0f9c_1234_abcd);
    let mut several = 0;
    for _ in 0..150 {
        let inventory = inventory_of(&mut random_machine(&mut random));
        several += usize::from(Groups::new(&inventory).all().len() > 3);
        check(&inventory);
    }
    assert!(
        several > 50,
        "{several} machines with more than three groups"
    );
    for mut fake in [q35(), desktop(), hostile()] {
        check(&inventory_of(&mut fake));
    }
}
