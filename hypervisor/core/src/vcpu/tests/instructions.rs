//! Instructions whose answer is the hypervisor's, and what skipping one entails.

use super::machine::*;
use crate::fault::StopReason;
use crate::hypercall::{ABI_VERSION, HypercallError};
use crate::vcpu::Action;
use crate::vmx::exit::Interruption;
use crate::vmx::field;

const GENERAL_PROTECTION: Interruption = Interruption::exception(13, true);
const INVALID_OPCODE: Interruption = Interruption::exception(6, false);

#[test]
fn cpuid_answers_in_low_halves_and_is_skipped() {
    let mut machine = Machine::new();
    let rip = machine.rip();
    machine.gprs.0 = [u64::MAX; 16];
    machine.gprs.set(RAX, 0xdead_0000_4000_0000);
    assert_eq!(machine.exit(reason::CPUID), Action::Resume);
    assert_eq!(machine.gprs.get(RAX), 0x4000_0001);
    assert_eq!(
        machine.gprs.get(RBX),
        u64::from(u32::from_le_bytes(*b"Bulk")),
        "the signature's first word"
    );
    assert_eq!(machine.rip(), rip + 2);
    assert_eq!(machine.gprs.get(RSI), u64::MAX);
}

#[test]
fn cpuid_shows_osxsave_as_cr4_has_it() {
    let mut machine = Machine::new();
    for (cr4, shown) in [(0x2060, false), (0x4_2060, true)] {
        machine.cpu.set_natural(field::GUEST_CR4, cr4);
        machine.gprs.set(RAX, 1);
        assert_eq!(machine.exit(reason::CPUID), Action::Resume);
        assert_eq!(machine.gprs.get(RCX) & 1 << 27 != 0, shown, "{cr4:#x}");
    }
}

#[test]
fn an_unknown_msr_faults_and_is_not_skipped() {
    let mut machine = Machine::new();
    for reason in [reason::RDMSR, reason::WRMSR] {
        machine.gprs.set(RCX, 0xdead_beef);
        assert_eq!(machine.exit(reason), Action::Resume);
        assert_eq!(machine.injected(), Some(GENERAL_PROTECTION));
        assert_eq!(machine.cpu.read(field::ENTRY_EXCEPTION_ERROR_CODE), 0);
        assert_eq!(machine.rip(), CODE + 2, "the set-up's own WRMSR");
    }
    assert_eq!(machine.vcpu.counters.faults, 2);
}

#[test]
fn an_msr_keeps_what_was_written_and_rdmsr_clears_high_halves() {
    let mut machine = Machine::new();
    assert_eq!(machine.wrmsr(0x1d9, 3), Action::Resume);
    machine.gprs.set(RAX, u64::MAX);
    machine.gprs.set(RDX, u64::MAX);
    assert_eq!(machine.rdmsr(0x1d9), 3);
    assert_eq!(machine.gprs.get(RDX), 0);
}

#[test]
fn pat_and_efer_reach_the_vmcs_or_fault() {
    let mut machine = Machine::new();
    assert_eq!(machine.wrmsr(0x277, 0x0606_0606_0606_0606), Action::Resume);
    assert_eq!(machine.cpu.read(field::GUEST_PAT), 0x0606_0606_0606_0606);
    assert_eq!(machine.wrmsr(0x277, 2), Action::Resume);
    assert_eq!(machine.injected(), Some(GENERAL_PROTECTION));
    assert_eq!(machine.cpu.read(field::GUEST_PAT), 0x0606_0606_0606_0606);
    assert_eq!(machine.wrmsr(0xc000_0080, 0x901), Action::Resume);
    assert_eq!(machine.injected(), None);
    assert_eq!(machine.cpu.read(field::GUEST_EFER), 0xd01, "LMA stays");
    for refused in [0x801, 0x1901, 0xd01 | 1 << 63] {
        assert_eq!(machine.wrmsr(0xc000_0080, refused), Action::Resume);
        assert_eq!(machine.injected(), Some(GENERAL_PROTECTION), "{refused:#x}");
        assert_eq!(machine.cpu.read(field::GUEST_EFER), 0xd01);
    }
}

#[test]
fn writing_the_tsc_moves_its_offset_and_the_adjustment() {
    let mut machine = Machine::new();
    let guest_now = machine.cpu.tsc + TSC_OFFSET;
    assert_eq!(machine.wrmsr(0x10, guest_now + 500), Action::Resume);
    assert_eq!(machine.cpu.read(field::TSC_OFFSET), TSC_OFFSET + 500);
    assert_eq!(machine.rdmsr(0x3b), 500);
    assert_eq!(machine.wrmsr(0x3b, 0), Action::Resume);
    assert_eq!(machine.cpu.read(field::TSC_OFFSET), TSC_OFFSET);
    assert_eq!(machine.rdmsr(0x10), guest_now);
}

#[test]
fn vmcall_answers_in_rax_alone_and_only_to_privilege_level_zero() {
    let mut machine = Machine::new();
    machine.gprs.0 = [0x77; 16];
    machine.gprs.set(RAX, 0);
    assert_eq!(machine.exit(reason::VMCALL), Action::Resume);
    let mut expected = [0x77; 16];
    expected[0] = u64::from(ABI_VERSION);
    assert_eq!(machine.gprs.0, expected);
    machine.gprs.set(RAX, u64::MAX);
    assert_eq!(machine.exit(reason::VMCALL), Action::Resume);
    assert_eq!(machine.gprs.get(RAX), HypercallError::UnknownNumber.code());
    machine.cpu.set(field::GUEST_SS_ACCESS, 0xc0f3);
    machine.gprs.set(RAX, 0);
    assert_eq!(machine.exit(reason::VMCALL), Action::Resume);
    assert_eq!(machine.gprs.get(RAX), HypercallError::NotPermitted.code());
    assert_eq!(machine.injected(), None);
}

#[test]
fn xsetbv_loads_only_what_the_guest_may_have() {
    let mut machine = Machine::new();
    machine.gprs.set(RAX, 7);
    machine.gprs.set(RDX, 0);
    machine.gprs.set(RCX, 0);
    assert_eq!(machine.exit(reason::XSETBV), Action::Resume);
    assert_eq!((machine.injected(), machine.cpu.xcr0), (None, 7));
    // No x87; AVX without SSE; MPX; a high bit; XCR1.
    for (register, value) in [(0, 6), (0, 5), (0, 0x1f), (0, 1 << 62 | 7), (1, 7)] {
        machine.gprs.set(RCX, register);
        machine.gprs.set(RAX, value & 0xffff_ffff);
        machine.gprs.set(RDX, value >> 32);
        assert_eq!(machine.exit(reason::XSETBV), Action::Resume);
        assert_eq!(machine.injected(), Some(GENERAL_PROTECTION), "{value:#x}");
        assert_eq!(machine.cpu.xcr0, 7);
    }
}

#[test]
fn cache_instructions_are_skipped_and_absent_ones_are_undefined() {
    let mut machine = Machine::new();
    let before = machine.rip();
    for reason in [reason::INVD, reason::WBINVD] {
        assert_eq!(machine.exit(reason), Action::Resume);
        assert_eq!(machine.injected(), None);
    }
    assert_eq!(machine.rip(), before + 4);
    // GETSEC, VMCLEAR to VMXON, MWAIT, MONITOR, INVEPT, INVVPID, VMFUNC.
    for reason in [11, 36, 39, 50, 53, 59].into_iter().chain(19..=27) {
        assert_eq!(machine.exit(reason), Action::Resume);
        assert_eq!(machine.injected(), Some(INVALID_OPCODE), "{reason}");
    }
    assert_eq!(machine.exit(reason::RDPMC), Action::Resume);
    assert_eq!(machine.injected(), Some(GENERAL_PROTECTION));
    assert_eq!(machine.rip(), before + 4);
}

#[test]
fn exits_without_a_cause_stop_the_vm_by_name() {
    let handled = [
        0, 1, 2, 7, 8, 9, 10, 11, 12, 13, 15, 18, 28, 30, 31, 32, 36, 37, 39, 43, 45, 48, 49, 50,
        52, 53, 54, 55, 56, 59,
    ];
    for reason in (0..=0xffff).filter(|r| !handled.contains(r) && !(19..=27).contains(r)) {
        let action = Machine::stop_of(reason);
        assert_eq!(action, Action::Stop(StopReason::UnexpectedExit(reason)));
        if reason > 200 {
            break;
        }
    }
    for (reason, why) in [
        (reason::TRIPLE_FAULT, StopReason::TripleFault),
        (reason::TASK_SWITCH, StopReason::TaskSwitch),
        (reason::EPT_MISCONFIGURATION, StopReason::UnexpectedExit(49)),
        (0x8000_0021, StopReason::UnexpectedExit(0x8000_0021)),
    ] {
        assert_eq!(Machine::stop_of(reason), Action::Stop(why), "{reason:#x}");
    }
}

#[test]
fn a_skipped_instruction_ends_an_interrupt_shadow() {
    let mut machine = Machine::new();
    machine.block(BLOCKED_BY_STI | BLOCKED_BY_NMI);
    assert_eq!(machine.exit(reason::CPUID), Action::Resume);
    assert_eq!(
        machine.cpu.read(field::GUEST_INTERRUPTIBILITY),
        BLOCKED_BY_NMI
    );
}

#[test]
fn a_skipped_instruction_traps_a_single_step() {
    let mut machine = Machine::new();
    machine.set_flags(RFLAGS_TF);
    assert_eq!(machine.exit(reason::CPUID), Action::Resume);
    assert_eq!(
        machine.cpu.read(field::GUEST_PENDING_DEBUG).0 & DEBUG_BS,
        DEBUG_BS
    );
    // With branch stepping, only branches trap.
    let mut machine = Machine::new();
    machine.set_flags(RFLAGS_TF);
    machine.cpu.set(field::GUEST_DEBUGCTL, 2);
    assert_eq!(machine.exit(reason::CPUID), Action::Resume);
    assert_eq!(machine.cpu.read(field::GUEST_PENDING_DEBUG).0, 0);
}

#[test]
fn an_instruction_at_the_end_of_32_bit_code_wraps() {
    let mut machine = Machine::new();
    // Compatibility mode: a user of the guest can arrange this.
    machine.cpu.set(field::GUEST_CS_ACCESS, 0xc0fb);
    machine.cpu.set_natural(field::GUEST_RIP, 0xffff_fffe);
    assert_eq!(machine.exit(reason::CPUID), Action::Resume);
    assert_eq!(machine.rip(), 0);
    machine.cpu.set(field::GUEST_CS_ACCESS, 0xa09b);
    machine.cpu.set_natural(field::GUEST_RIP, 0xffff_fffe);
    assert_eq!(machine.exit(reason::CPUID), Action::Resume);
    assert_eq!(machine.rip(), 1 << 32);
}

impl Machine {
    fn stop_of(reason: u32) -> Action {
        Self::new().exit(reason)
    }
}
