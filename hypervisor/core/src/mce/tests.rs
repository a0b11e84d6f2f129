//! Each line of the classification, each class of code, and every value anybody could put into a bank.

use super::*;
use proptest::prelude::*;

const RECOVERS: McgCap = McgCap(1 << 24 | 10);
const MEMORY: u64 = 0x009f;
/// A physical address that counts from bit 6 on.
const LINE: u64 = 2 << 6 | 6;
const USED: StatusFlags = StatusFlags::VALID
    .union(StatusFlags::UNCORRECTED)
    .union(StatusFlags::ENABLED)
    .union(StatusFlags::SIGNALED)
    .union(StatusFlags::ACTION_REQUIRED)
    .union(StatusFlags::ADDRESS_VALID)
    .union(StatusFlags::MISC_VALID);

fn bank(flags: StatusFlags) -> BankRegisters {
    BankRegisters {
        bank: 3,
        status: flags.bits() | MEMORY,
        address: 0x1234_5678,
        misc: LINE,
    }
}

fn decoded(flags: StatusFlags) -> Severity {
    BankError::decode(RECOVERS, &bank(flags)).map_or(Severity::None, |error| error.severity)
}

fn judged(flags: StatusFlags) -> Verdict {
    let status = McgStatus::RESTART_IP_VALID;
    judge(RECOVERS, status, Interrupted::Guest, [bank(flags)]).verdict
}

#[test]
fn each_classification_has_its_severity() {
    assert_eq!(decoded(StatusFlags::empty()), Severity::None);
    assert_eq!(decoded(USED.difference(StatusFlags::VALID)), Severity::None);
    assert_eq!(decoded(StatusFlags::VALID), Severity::Corrected);
    let disabled = USED.difference(StatusFlags::ENABLED);
    assert_eq!(decoded(disabled), Severity::Corrected);
    assert_eq!(
        decoded(disabled | StatusFlags::CONTEXT_CORRUPT),
        Severity::Fatal
    );
    let optional = USED.difference(StatusFlags::ACTION_REQUIRED);
    assert_eq!(decoded(optional), Severity::UncorrectedNoAction);
    let silent = optional.difference(StatusFlags::SIGNALED);
    assert_eq!(decoded(silent), Severity::UncorrectedNoAction);
    assert_eq!(decoded(USED), Severity::ActionRequired(Hpa(0x1234_5640)));
    assert_eq!(decoded(USED | StatusFlags::OVERFLOW), Severity::Fatal);
    assert_eq!(
        decoded(USED | StatusFlags::CONTEXT_CORRUPT),
        Severity::Fatal
    );
    assert_eq!(
        decoded(USED.difference(StatusFlags::SIGNALED)),
        Severity::Fatal
    );
    assert_eq!(
        decoded(USED.difference(StatusFlags::ADDRESS_VALID)),
        Severity::Fatal
    );
    assert_eq!(
        decoded(USED.difference(StatusFlags::MISC_VALID)),
        Severity::Fatal
    );
}

#[test]
fn a_cpu_that_cannot_recover_makes_every_uncorrected_error_fatal() {
    let error = BankError::decode(McgCap(10), &bank(USED)).unwrap();
    assert_eq!(error.severity, Severity::Fatal);
}

#[test]
fn only_a_physical_address_within_one_frame_names_an_owner() {
    let severity = |misc| {
        let registers = BankRegisters { misc, ..bank(USED) };
        BankError::decode(RECOVERS, &registers).unwrap().severity
    };
    assert_eq!(
        severity(2 << 6 | 12),
        Severity::ActionRequired(Hpa(0x1234_5000))
    );
    assert_eq!(severity(2 << 6 | 13), Severity::Fatal);
    assert_eq!(severity(2 << 6 | 63), Severity::Fatal);
    for mode in [0, 1, 3, 4, 7] {
        assert_eq!(severity(mode << 6 | 6), Severity::Fatal);
    }
}

#[test]
fn verdicts_follow_severity_and_who_was_interrupted() {
    assert_eq!(judged(StatusFlags::VALID), Verdict::Log);
    assert_eq!(
        judged(USED.difference(StatusFlags::ACTION_REQUIRED)),
        Verdict::Log
    );
    assert_eq!(judged(USED), Verdict::StopOwner(Hpa(0x1234_5640)));
    assert_eq!(judged(USED | StatusFlags::OVERFLOW), Verdict::StopMachine);
    let judge = |status, who, flags| judge(RECOVERS, status, who, [bank(flags)]).verdict;
    let lost = McgStatus::IN_PROGRESS;
    assert_eq!(
        judge(lost, Interrupted::Guest, USED),
        Verdict::StopOwner(Hpa(0x1234_5640))
    );
    assert_eq!(
        judge(lost, Interrupted::Guest, StatusFlags::VALID),
        Verdict::StopMachine
    );
    let resumable = McgStatus::RESTART_IP_VALID;
    let here = resumable | McgStatus::ERROR_IP_VALID;
    for status in [here, lost] {
        assert_eq!(
            judge(status, Interrupted::Hypervisor, USED),
            Verdict::StopMachine
        );
    }
    // Another CPU used it; this one sees the bank they share.
    assert_eq!(
        judge(resumable, Interrupted::Hypervisor, USED),
        Verdict::StopOwner(Hpa(0x1234_5640))
    );
    assert_eq!(
        judge(resumable, Interrupted::Hypervisor, StatusFlags::VALID),
        Verdict::Log
    );
}

#[test]
fn a_cpu_that_was_only_told_goes_on_where_it_can() {
    let none = |status| judge(RECOVERS, status, Interrupted::Guest, []).verdict;
    assert_eq!(none(McgStatus::RESTART_IP_VALID), Verdict::Log);
    assert_eq!(none(McgStatus::empty()), Verdict::StopMachine);
}

#[test]
fn the_worst_bank_decides() {
    let status = McgStatus::RESTART_IP_VALID;
    let corrected = bank(StatusFlags::VALID);
    let used = BankRegisters {
        bank: 5,
        ..bank(USED)
    };
    let fatal = BankRegisters {
        bank: 9,
        ..bank(USED | StatusFlags::CONTEXT_CORRUPT)
    };
    let by = |banks: &[BankRegisters]| {
        let judgement = judge(RECOVERS, status, Interrupted::Guest, banks.iter().copied());
        (judgement.verdict, judgement.cause.unwrap().bank)
    };
    let owner = Verdict::StopOwner(Hpa(0x1234_5640));
    assert_eq!(by(&[corrected, used]), (owner, 5));
    assert_eq!(by(&[used, corrected]), (owner, 5));
    assert_eq!(by(&[fatal, used]), (Verdict::StopMachine, 9));
    assert_eq!(by(&[used, fatal]), (Verdict::StopMachine, 9));
    let neighbour = BankRegisters {
        address: 0x1234_5f00,
        ..used
    };
    assert_eq!(by(&[used, neighbour]).0, owner);
    let elsewhere = BankRegisters {
        address: 0x9_0000,
        ..used
    };
    assert_eq!(by(&[used, elsewhere]).0, Verdict::StopMachine);
}

#[test]
fn each_class_of_code_is_told_apart() {
    for (raw, class) in [
        (0x0000, ErrorCode::NoError),
        (0x0005, ErrorCode::InternalParity),
        (0x000e, ErrorCode::GenericCache),
        (0x0014, ErrorCode::Tlb),
        (0x009f, ErrorCode::MemoryController),
        (0x109f, ErrorCode::MemoryController),
        (0x0134, ErrorCode::Cache),
        (0x0280, ErrorCode::ExtendedMemory),
        (0x0400, ErrorCode::InternalTimer),
        (0x0402, ErrorCode::InternalUnclassified),
        (0x0e0b, ErrorCode::Bus),
        (0x0008, ErrorCode::Unknown(0x0008)),
        (0x9000, ErrorCode::Unknown(0x9000)),
    ] {
        assert_eq!(ErrorCode::of(raw), class, "{raw:#x}");
    }
}

#[test]
fn the_report_names_bank_class_and_address() {
    let status = McgStatus::RESTART_IP_VALID;
    let text = judge(RECOVERS, status, Interrupted::Guest, [bank(USED)]).to_string();
    for part in ["bank 3", "memory controller", "0x12345640", "owner"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn banks_have_four_msrs_each() {
    assert_eq!(BankMsrs::of(0).control, 0x400);
    assert_eq!(BankMsrs::of(2).misc, 0x40b);
    assert_eq!(BankMsrs::of(255).misc, 0x7ff);
    assert_eq!((RECOVERS.banks(), RECOVERS.recovers()), (10, true));
}

proptest! {
    #[test]
    fn every_value_has_a_verdict_and_corrupt_state_always_stops(
        cap: u64, status: u64, words in prop::collection::vec(any::<[u64; 3]>(), 0..6), guest: bool,
    ) {
        let who = if guest { Interrupted::Guest } else { Interrupted::Hypervisor };
        let banks = words.iter().map(|[status, address, misc]| BankRegisters {
            bank: 255, status: *status, address: *address, misc: *misc,
        });
        let judgement = judge(McgCap(cap), McgStatus::from_bits_truncate(status), who, banks.clone());
        prop_assert!(!judgement.to_string().is_empty());
        let fatal = StatusFlags::VALID | StatusFlags::UNCORRECTED | StatusFlags::CONTEXT_CORRUPT;
        let corrupt = banks.clone().any(|b| StatusFlags::from_bits_truncate(b.status).contains(fatal));
        prop_assert!(!corrupt || judgement.verdict == Verdict::StopMachine);
        let used_here = !judgement.resumable || status & 2 != 0;
        prop_assert!(guest || !used_here || !matches!(judgement.verdict, Verdict::StopOwner(_)));
    }
}

#[test]
fn banks_end_where_the_vmx_registers_begin() {
    assert_eq!(McgCap(10).banks(), 10);
    assert_eq!(McgCap(0xff).banks(), 32);
    assert_eq!(BankMsrs::of(31).misc + 1, 0x480);
}

#[test]
fn only_the_owner_of_a_bad_frame_pays() {
    assert_eq!(
        Consequence::of(Some(Owner::Vm(VmId(2)))),
        Consequence::StopVm(VmId(2))
    );
    assert_eq!(
        Consequence::of(Some(Owner::Hypervisor)),
        Consequence::StopMachine
    );
    assert_eq!(Consequence::of(Some(Owner::Nobody)), Consequence::Retire);
    for owner in [Some(Owner::Payload), Some(Owner::Firmware), None] {
        assert_eq!(Consequence::of(owner), Consequence::Nothing);
    }
}
