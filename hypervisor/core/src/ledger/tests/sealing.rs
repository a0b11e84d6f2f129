//! Frames between clear and sealed, and what the operator may look at.

use crate::addr::{Frame, FrameCount};

use super::super::*;
use super::{OTHER, RW, VM, entries, give, usable};

#[test]
fn sealed_frames_are_out_of_everyones_reach() {
    let mut entries = entries(512);
    let mut ledger = usable(&mut entries);
    let frames = give(&mut ledger, VM, 2);
    let before = ledger.info(frames.first).unwrap().version;
    let right = ledger.seal(VM, frames, KeyId(70_000)).unwrap();
    let info = ledger.info(frames.first).unwrap();
    assert_eq!((info.key, info.version), (KeyId(70_000), before + 1));
    assert!(ledger.grant(VM, frames, RW).is_err());
    assert!(ledger.grant_window(VM, frames, RW).is_err());
    assert!(ledger.share(VM, OTHER, frames, RW).is_err());
    // While it is being encrypted, nobody begins to decrypt it.
    let mapped = Err(LedgerError::StillMapped(frames.first));
    assert_eq!(ledger.grant_unseal(VM, frames).map(drop), mapped);
    ledger.surrender(right);
    assert_eq!(
        ledger.grant_unseal(OTHER, frames).map(drop),
        Err(LedgerError::NotOwner(frames.first))
    );
    let (unsealing, right) = ledger.grant_unseal(VM, frames).unwrap();
    assert_eq!(ledger.grant_unseal(VM, frames).map(drop), mapped);
    ledger.unseal(unsealing, right).unwrap();
    let info = ledger.info(frames.first).unwrap();
    assert_eq!((info.state, info.key), (State::Clear, KeyId(0)));
    let right = ledger.grant(VM, frames, RW).unwrap();
    ledger.surrender(right);
}

#[test]
fn frames_that_fail_to_verify_stay_sealed() {
    let mut entries = entries(512);
    let mut ledger = usable(&mut entries);
    let frames = give(&mut ledger, VM, 1);
    let right = ledger.seal(VM, frames, KeyId(1)).unwrap();
    ledger.surrender(right);
    let (unsealing, right) = ledger.grant_unseal(VM, frames).unwrap();
    ledger.surrender(right);
    drop(unsealing);
    assert_eq!(ledger.info(frames.first).unwrap().state, State::Sealed);
    ledger.free(Owner::Vm(VM), frames).unwrap();
    let info = ledger.info(frames.first).unwrap();
    assert_eq!((info.state, info.key), (State::Dirty, KeyId(0)));
}

#[test]
fn frames_that_are_discarded_stay_their_vms_and_cannot_be_mapped_before_they_are_zeroed() {
    let mut entries = entries(512);
    let mut ledger = usable(&mut entries);
    let frames = give(&mut ledger, VM, 2);
    let right = ledger.seal(VM, frames, KeyId(1)).unwrap();
    let mapped = Err(LedgerError::StillMapped(frames.first));
    assert_eq!(ledger.discard(VM, frames), mapped);
    ledger.surrender(right);
    let not_owner = Err(LedgerError::NotOwner(frames.first));
    assert_eq!(ledger.discard(OTHER, frames), not_owner);
    ledger.discard(VM, frames).unwrap();
    let info = ledger.info(frames.first).unwrap();
    let kept = (Owner::Vm(VM), State::Dirty, KeyId(0));
    assert_eq!((info.owner, info.state, info.key), kept);
    assert!(ledger.grant(VM, frames, RW).is_err());
    ledger
        .scrub(frames, &mut super::Scrubbed::default())
        .unwrap();
    let right = ledger.grant(VM, frames, RW).unwrap();
    ledger.surrender(right);
}

#[test]
fn another_right_does_not_unseal() {
    let mut entries = entries(512);
    let mut ledger = usable(&mut entries);
    let frames = give(&mut ledger, VM, 2);
    let (first, second) = (
        FrameRun::new(frames.first, FrameCount(1)),
        FrameRun::new(Frame(frames.first.0 + 1), FrameCount(1)),
    );
    let right = ledger.seal(VM, first, KeyId(1)).unwrap();
    ledger.surrender(right);
    let (unsealing, right) = ledger.grant_unseal(VM, first).unwrap();
    let other = ledger.grant_window(VM, second, RW).unwrap();
    assert_eq!(
        ledger.unseal(unsealing, other),
        Err(LedgerError::StillMapped(first.first))
    );
    assert_eq!(ledger.info(first.first).unwrap().state, State::Sealed);
    ledger.surrender(right);
}

#[test]
fn the_last_version_is_not_passed() {
    let mut entries = entries(512);
    let mut ledger = usable(&mut entries);
    let frames = give(&mut ledger, VM, 1);
    ledger.set_version(frames.first, u32::MAX - 1);
    let right = ledger.seal(VM, frames, KeyId(1)).unwrap();
    ledger.surrender(right);
    let (unsealing, right) = ledger.grant_unseal(VM, frames).unwrap();
    ledger.unseal(unsealing, right).unwrap();
    assert_eq!(
        ledger.seal(VM, frames, KeyId(1)),
        Err(LedgerError::NoVersionLeft(frames.first))
    );
    assert_eq!(ledger.info(frames.first).unwrap().state, State::Clear);
}

#[test]
fn a_frame_that_one_vm_sealed_to_the_last_version_begins_anew_with_the_next() {
    let mut entries = entries(512);
    let mut ledger = usable(&mut entries);
    let frames = give(&mut ledger, VM, 1);
    ledger.set_version(frames.first, u32::MAX);
    ledger.free(Owner::Vm(VM), frames).unwrap();
    assert_eq!(give(&mut ledger, OTHER, 1), frames);
    assert_eq!(ledger.info(frames.first).unwrap().version, 0);
    let right = ledger.seal(OTHER, frames, KeyId(2)).unwrap();
    ledger.surrender(right);
    assert_eq!(ledger.info(frames.first).unwrap().version, 1);
}

#[test]
fn the_operator_sees_what_is_sealed_or_not_encrypted() {
    let mut entries = entries(512);
    let mut ledger = usable(&mut entries);
    let private = give(&mut ledger, VM, 1);
    let open = give(&mut ledger, OTHER, 1);
    ledger.open_to_operator(OTHER, open).unwrap();
    assert_eq!(
        ledger.open_to_operator(OTHER, private),
        Err(LedgerError::NotOwner(private.first))
    );
    assert_eq!(
        ledger.grant_inspect(VM, private),
        Err(LedgerError::Private(private.first))
    );
    assert_eq!(
        ledger.grant_inspect(VM, open),
        Err(LedgerError::NotOwner(open.first))
    );
    let right = ledger.grant_inspect(OTHER, open).unwrap();
    assert_eq!(
        (right.holder(), right.rights()),
        (Holder::Hypervisor, Rights::READ)
    );
    ledger.surrender(right);
    let right = ledger.seal(VM, private, KeyId(1)).unwrap();
    ledger.surrender(right);
    let right = ledger.grant_inspect(VM, private).unwrap();
    ledger.surrender(right);
    // The next owner's frames are its own again.
    ledger.free(Owner::Vm(OTHER), open).unwrap();
    assert_eq!(give(&mut ledger, VM, 1), open);
    assert!(!ledger.info(open.first).unwrap().open);
}
