//! What is no memory is one VM's, or the hypervisor's, and nobody else's.

use super::*;
use crate::testing::Random;

/// Memory up to frame 280, a hole, the firmware's, a device's; nothing is known from 512 on.
fn ledger(entries: &mut [Entry]) -> Ledger<'_> {
    let map = [
        range(0, 280, MemoryKind::Usable),
        range(300, 10, MemoryKind::Firmware),
        range(400, 20, MemoryKind::Mmio),
    ];
    Ledger::new(entries, map.into_iter())
}

#[test]
fn a_device_is_one_vms_until_all_of_it_came_back() {
    let mut entries = entries(512);
    let mut ledger = ledger(&mut entries);
    for device in [run(400, 4), run(285, 4), run(510, 8), run(0x1_0000_0000, 4)] {
        let right = ledger.grant_passthrough(VM, device).unwrap();
        assert_eq!((right.holder(), right.rights()), (Holder::Vm(VM), RW));
        let last = run(device.end().0 - 1, 3);
        let taken = LedgerError::DeviceTaken(last.first);
        assert_eq!(ledger.grant_passthrough(OTHER, last), Err(taken));
        assert_eq!(ledger.grant_passthrough(VM, last), Err(taken));
        assert_eq!(ledger.grant_device(last), Err(taken));
        let (one, rest) = right.split(FrameCount(1)).unwrap();
        ledger.surrender(rest);
        assert_eq!(ledger.grant_device(last), Err(taken));
        ledger.surrender(one);
        let again = ledger.grant_passthrough(OTHER, device).unwrap();
        ledger.surrender(again);
    }
    assert_eq!(ledger.info(Frame(400)).unwrap().maps, 0);
}

#[test]
fn what_the_hypervisor_maps_is_no_vms() {
    let mut entries = entries(512);
    let mut ledger = ledger(&mut entries);
    for device in [run(400, 2), run(0x1000, 2)] {
        // As often as it likes.
        let rights = [(); 2].map(|()| ledger.grant_device(device).unwrap());
        let taken = ledger.grant_passthrough(VM, device).unwrap_err();
        assert!(matches!(
            taken,
            LedgerError::DeviceTaken(_) | LedgerError::StillMapped(_)
        ));
        for right in rights {
            ledger.surrender(right);
        }
        assert!(ledger.grant_passthrough(VM, device).is_err());
    }
}

#[test]
fn memory_is_no_device_and_neither_is_the_firmwares() {
    let mut entries = entries(512);
    let mut ledger = ledger(&mut entries);
    let own = give(&mut ledger, VM, 4);
    for (device, frame) in [
        (run(100, 1), 100),
        (own, own.first.0),
        (run(279, 4), 279),
        (run(299, 2), 300),
        (run(0, 1), 0),
    ] {
        let refused = Err(LedgerError::NotDevice(Frame(frame)));
        assert_eq!(ledger.grant_passthrough(VM, device), refused);
    }
    for empty in [run(400, 0), run(u64::MAX, 2)] {
        assert!(ledger.grant_passthrough(VM, empty).is_err());
    }
    // A VM's right to a device is no right to memory, nor the other way round.
    let right = ledger.grant_passthrough(VM, run(400, 1)).unwrap();
    assert!(ledger.grant(VM, run(400, 1), RW).is_err());
    ledger.surrender(right);
}

#[test]
fn reserved_memory_is_what_the_firmware_reserved() {
    let mut entries = entries(512);
    let mut ledger = ledger(&mut entries);
    let right = ledger.grant_reserved(VM, run(302, 4)).unwrap();
    assert_eq!((right.holder(), right.rights()), (Holder::Vm(VM), RW));
    assert_eq!(
        ledger.grant_reserved(OTHER, run(300, 3)),
        Err(LedgerError::DeviceTaken(Frame(302)))
    );
    for (reserved, frame) in [
        (run(0, 1), 0),
        (run(100, 1), 100),
        (run(309, 2), 310),
        (run(400, 1), 400),
    ] {
        assert_eq!(
            ledger.grant_reserved(VM, reserved),
            Err(LedgerError::NotReserved(Frame(frame)))
        );
    }
    assert!(ledger.grant_reserved(VM, run(511, 2)).is_err());
    ledger.surrender(right);
    let right = ledger.grant_reserved(OTHER, run(300, 3)).unwrap();
    ledger.surrender(right);
}

#[test]
fn a_list_that_is_full_refuses_and_forgets_nothing() {
    let mut entries = entries(512);
    let mut ledger = ledger(&mut entries);
    let at = |index: u64| run(0x10_0000 + 2 * index, 1);
    let mut rights = Vec::new();
    let full = loop {
        match ledger.grant_passthrough(VM, at(rights.len() as u64)) {
            Ok(right) => rights.push(right),
            Err(error) => break error,
        }
    };
    assert_eq!(full, LedgerError::TooManyDevices);
    assert_eq!(
        ledger.grant_passthrough(VM, run(400, 1)),
        Err(LedgerError::TooManyDevices)
    );
    assert_eq!(ledger.info(Frame(400)).unwrap().maps, 0);
    assert!(ledger.grant_passthrough(OTHER, at(0)).is_err());
    ledger.surrender(rights.remove(0));
    let right = ledger.grant_passthrough(OTHER, run(400, 1)).unwrap();
    ledger.surrender(right);
    rights.into_iter().for_each(|right| ledger.surrender(right));
}

#[test]
fn whoever_asks_a_frame_has_one_holder() {
    let mut random = Random(0x00de_71ce_5000_0001);
    let mut entries = entries(512);
    let mut ledger = ledger(&mut entries);
    let mut out: Vec<MapRight> = Vec::new();
    // The hypervisor's stay its own.
    let mut kept: Vec<FrameRun> = Vec::new();
    let meet = |one: FrameRun, other: FrameRun| one.first < other.end() && other.first < one.end();
    for _ in 0..100_000 {
        let wanted = run(395 + random.below(140), 1 + random.below(12));
        match random.below(5) {
            0 | 1 => {
                let vm = random.of(&[VM, OTHER]);
                let free = !out.iter().any(|right| meet(right.run(), wanted))
                    && !kept.iter().any(|other| meet(*other, wanted));
                let granted = ledger.grant_passthrough(vm, wanted);
                // What has partly come back is not free yet.
                if granted.is_ok() {
                    assert!(free, "{wanted:?}");
                }
                out.extend(granted);
            }
            2 if random.one_in(2_000) => {
                if let Ok(right) = ledger.grant_device(wanted) {
                    assert!(!out.iter().any(|other| meet(other.run(), wanted)));
                    kept.push(wanted);
                    ledger.surrender(right);
                }
            }
            3 if !out.is_empty() => {
                let right = out.swap_remove(random.below(out.len() as u64) as usize);
                match right.split(FrameCount(1 + random.below(4))) {
                    Ok((one, rest)) => out.extend([one, rest]),
                    Err(whole) => out.push(whole),
                }
            }
            _ if !out.is_empty() => {
                let right = out.swap_remove(random.below(out.len() as u64) as usize);
                ledger.surrender(right);
            }
            _ => {}
        }
    }
    out.drain(..).for_each(|right| ledger.surrender(right));
    for frame in (395..535).filter(|frame| !kept.iter().any(|run| run.contains(Frame(*frame)))) {
        let right = ledger.grant_passthrough(VM, run(frame, 1)).unwrap();
        ledger.surrender(right);
    }
}
