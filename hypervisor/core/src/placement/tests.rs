//! Machines with and without sibling threads, and every demand that cannot be met.

use super::*;
use proptest::prelude::*;

/// `cores` cores of `threads` threads; all first threads are numbered before all second ones, as firmware does.
fn machine(cores: u32, threads: u32) -> Vec<Option<Location>> {
    let at = |cpu| Location {
        package: 0,
        core: cpu % cores,
        thread: cpu / cores,
    };
    (0..cores * threads).map(|cpu| Some(at(cpu))).collect()
}

fn pinned<'a>(name: &'a str, vcpus: u32, cpus: &'a [u32]) -> Demand<'a> {
    Demand {
        name,
        vcpus,
        cpus: Some(cpus),
        weight: 100,
    }
}

fn shared(name: &str, vcpus: u32, weight: u32) -> Demand<'_> {
    Demand {
        name,
        vcpus,
        cpus: None,
        weight,
    }
}

fn decide(vms: &[Demand<'_>], cpus: &[Option<Location>], smt: SmtPolicy) -> Vec<Vec<u32>> {
    Placement::decide(vms, cpus, smt).unwrap().vms
}

#[test]
fn pinned_vcpus_go_where_they_are_told_and_take_turns_where_there_are_more() {
    let cpus = machine(4, 1);
    let vms = [pinned("a", 2, &[3, 1]), pinned("b", 3, &[0, 2])];
    assert_eq!(
        decide(&vms, &cpus, SmtPolicy::Isolate),
        [vec![3, 1], vec![0, 2, 0]]
    );
}

#[test]
fn sharers_keep_off_pinned_cpus() {
    let cpus = machine(3, 1);
    let vms = [
        shared("a", 2, 100),
        pinned("b", 1, &[1]),
        shared("c", 2, 100),
    ];
    let placed = decide(&vms, &cpus, SmtPolicy::Share);
    assert_eq!(placed, [vec![0, 2], vec![1], vec![0, 2]]);
}

#[test]
fn sharers_are_spread_by_weight() {
    let cpus = machine(2, 1);
    let vms = [
        shared("light", 1, 100),
        shared("light too", 1, 100),
        shared("heavy", 1, 200),
    ];
    let placed = decide(&vms, &cpus, SmtPolicy::Isolate);
    assert_eq!(placed[0], placed[1]);
    assert_ne!(placed[0], placed[2]);
}

#[test]
fn two_vcpus_of_a_vm_share_a_cpu_only_where_they_must() {
    let cpus = machine(2, 1);
    let vms = [shared("a", 1, 10_000), shared("b", 2, 1), shared("c", 3, 1)];
    let placed = decide(&vms, &cpus, SmtPolicy::Isolate);
    let mut b = placed[1].clone();
    b.sort_unstable();
    assert_eq!(b, [0, 1]);
    let mut c = placed[2].clone();
    c.sort_unstable();
    c.dedup();
    assert_eq!(c, [0, 1]);
}

#[test]
fn isolation_uses_one_thread_a_core_for_sharers() {
    let cpus = machine(2, 2);
    let vms = [shared("a", 4, 100)];
    assert_eq!(decide(&vms, &cpus, SmtPolicy::Isolate), [[0, 1, 0, 1]]);
    assert_eq!(decide(&vms, &cpus, SmtPolicy::Share), [[0, 1, 2, 3]]);
}

#[test]
fn the_thread_beside_a_pinned_cpu_is_its_vms_or_nobodys() {
    let cpus = machine(2, 2);
    let vms = [pinned("a", 1, &[0]), shared("b", 2, 100)];
    assert_eq!(decide(&vms, &cpus, SmtPolicy::Isolate)[1], [1, 1]);
    assert_eq!(decide(&vms, &cpus, SmtPolicy::Share)[1], [1, 2]);
    let vms = [pinned("a", 2, &[0, 2]), shared("b", 1, 100)];
    assert_eq!(
        decide(&vms, &cpus, SmtPolicy::Isolate),
        [vec![0, 2], vec![1]]
    );
}

#[test]
fn what_cannot_be_met_is_named() {
    let cpus = machine(2, 2);
    let error = |vms: &[Demand<'_>], smt| Placement::decide(vms, &cpus, smt).unwrap_err();
    let absent = error(&[pinned("a", 1, &[4])], SmtPolicy::Share);
    assert_eq!(
        absent,
        PlacementError::Absent {
            vm: "a".into(),
            cpu: 4,
            cpus: 4
        }
    );
    let twice = error(
        &[pinned("a", 1, &[1]), pinned("b", 1, &[1])],
        SmtPolicy::Share,
    );
    assert_eq!(
        twice,
        PlacementError::PinnedTwice {
            vm: "b".into(),
            cpu: 1,
            owner: "a".into()
        }
    );
    let beside = [pinned("a", 1, &[1]), pinned("b", 1, &[3])];
    assert_eq!(
        error(&beside, SmtPolicy::Isolate),
        PlacementError::SiblingOfPinned {
            vm: "b".into(),
            cpu: 3,
            owner: "a".into(),
            sibling: 1
        }
    );
    assert!(Placement::decide(&beside, &cpus, SmtPolicy::Share).is_ok());
    let full = [shared("b", 1, 100), pinned("a", 2, &[0, 1])];
    let none_left = PlacementError::NoneLeft { vm: "b".into() };
    assert_eq!(error(&full, SmtPolicy::Isolate), none_left);
    assert!(Placement::decide(&full, &cpus, SmtPolicy::Share).is_ok());
    let empty = [pinned("b", 1, &[])];
    assert_eq!(error(&empty, SmtPolicy::Isolate), none_left);
    for (error, names) in [(absent, ["'a'", "CPU 4"]), (twice, ["'b'", "'a'"])] {
        let text = error.to_string();
        assert!(names.iter().all(|name| text.contains(name)), "{text}");
    }
}

#[test]
fn what_is_on_a_cpu_can_be_asked() {
    let cpus = machine(2, 1);
    let vms = [shared("a", 2, 100), shared("b", 1, 50)];
    let placement = Placement::decide(&vms, &cpus, SmtPolicy::Isolate).unwrap();
    assert_eq!(placement.on(0).collect::<Vec<_>>(), [(0, 0), (1, 0)]);
    assert_eq!(placement.on(1).collect::<Vec<_>>(), [(0, 1)]);
    assert_eq!(placement.cpus_of(0), [0, 1]);
    assert!(placement.cpus_of(7).is_empty());
}

proptest! {
    #[test]
    fn isolated_vms_never_meet_on_a_core(
        cores in 1u32..6,
        threads in 1u32..3,
        asked in prop::collection::vec((1u32..5, prop::option::of(prop::collection::vec(0u32..12, 1..3)), 1u32..500), 1..6),
    ) {
        let cpus = machine(cores, threads);
        let vms: Vec<_> = asked
            .iter()
            .map(|(vcpus, cpus, weight)| Demand { name: "vm", vcpus: *vcpus, cpus: cpus.as_deref(), weight: *weight })
            .collect();
        if let Ok(placement) = Placement::decide(&vms, &cpus, SmtPolicy::Isolate) {
            for (index, vm) in vms.iter().enumerate() {
                let own = placement.cpus_of(index);
                prop_assert_eq!(own.len(), vm.vcpus as usize);
                for (other_index, other) in vms.iter().enumerate() {
                    if index == other_index {
                        continue;
                    }
                    for (a, b) in own.iter().flat_map(|a| placement.cpus_of(other_index).iter().map(move |b| (*a, *b))) {
                        let same_core = cpus[a as usize].unwrap().same_core(cpus[b as usize].unwrap());
                        // Only sharers meet, and only on one and the same thread.
                        prop_assert!(!same_core || a == b && vm.cpus.is_none() && other.cpus.is_none());
                    }
                }
            }
        }
    }
}

#[test]
fn a_cpu_that_did_not_come_up_is_nobodys_and_blocks_no_sibling() {
    let mut cpus = machine(2, 2);
    cpus[0] = None;
    let vms = [shared("a", 2, 100)];
    assert_eq!(decide(&vms, &cpus, SmtPolicy::Isolate), [vec![1, 2]]);
    assert_eq!(
        Placement::decide(&[pinned("b", 1, &[0])], &cpus, SmtPolicy::Isolate),
        Err(PlacementError::Unusable {
            vm: "b".into(),
            cpu: 0
        })
    );
}
