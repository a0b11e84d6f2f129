//! The order of silencing, and how functions are reset.

use super::super::Groups;
use super::super::quiesce::{Step, quiesce};
use super::super::reset::{Reset, ResetRefusal, choose};
use super::super::testing::fake::{Fake, Space};
use super::super::testing::machines::{desktop, hostile, q35};
use super::super::testing::{at, inventory_of};

#[test]
fn every_function_is_silenced_before_the_bridges_above_it() {
    for mut fake in [q35(), desktop(), hostile()] {
        let inventory = inventory_of(&mut fake);
        let steps = quiesce(&inventory);
        let turn = |function| {
            let turns: Vec<_> = steps
                .iter()
                .enumerate()
                .filter(|(_, step)| **step == Step::ClearMaster(function))
                .map(|(turn, _)| turn)
                .collect();
            assert_eq!(turns.len(), 1, "{function}");
            turns[0]
        };
        for function in inventory.functions() {
            for bridge in inventory.ancestors(function) {
                assert!(turn(function.address) < turn(bridge.address));
            }
        }
    }
}

#[test]
fn a_pci_express_function_finishes_and_virtual_ones_go_first() {
    let mut sriov = vec![0; 0x3c];
    sriov[4] = 1;
    sriov[0x0a] = 8;
    let card = Space::new(0x8086_10ed, 0x02_0000)
        .express(0x40, 0, true)
        .extended(0x10, &sriov);
    let inventory = inventory_of(&mut Fake::default().with("00:05.0", card));
    let function = at("00:05.0");
    assert_eq!(
        quiesce(&inventory),
        [
            Step::DisableVirtualFunctions {
                function,
                control: 0x108
            },
            Step::ClearMaster(function),
            Step::AwaitIdle {
                function,
                status: 0x4a
            },
        ]
    );
}

#[test]
fn a_function_is_reset_by_itself_where_it_can_be() {
    let advanced = Space::new(0x8086_3a34, 0x0c_0300).capability(0x98, 0x13, &[6, 3, 0, 0]);
    let without = Space::new(0x8086_3a35, 0x0c_0300).capability(0x98, 0x13, &[6, 1, 0, 0]);
    let mut fake = q35().with("00:1a.0", advanced).with("00:1b.0", without);
    let inventory = inventory_of(&mut fake);
    let groups = Groups::new(&inventory);
    let reset = |place| choose(&inventory, &groups, at(place));
    assert_eq!(reset("00:02.0"), Ok(Reset::Express { control: 0xe8 }));
    assert_eq!(
        reset("00:1a.0"),
        Ok(Reset::AdvancedFeatures { control: 0x9c })
    );
    assert_eq!(reset("00:1b.0"), Err(ResetRefusal::RootBus(at("00:1b.0"))));
    assert_eq!(reset("00:03.0"), Err(ResetRefusal::RootBus(at("00:03.0"))));
    assert_eq!(reset("00:09.0"), Err(ResetRefusal::Missing(at("00:09.0"))));
}

#[test]
fn a_bus_is_reset_only_where_all_of_it_is_the_groups() {
    let inventory = inventory_of(&mut desktop());
    let groups = Groups::new(&inventory);
    let reset = |place| choose(&inventory, &groups, at(place));
    assert_eq!(reset("04:00.0"), Ok(Reset::SecondaryBus(at("02:01.0"))));
    assert_eq!(reset("09:00.1"), Ok(Reset::SecondaryBus(at("00:03.0"))));
    let refusal = ResetRefusal::SharedBus {
        function: at("0d:00.0"),
        bridge: at("00:1c.1"),
        other: at("0d:00.1"),
    };
    assert_eq!(reset("0d:00.0"), Err(refusal));
    assert!(refusal.to_string().contains("0000:0d:00.1"));
}
