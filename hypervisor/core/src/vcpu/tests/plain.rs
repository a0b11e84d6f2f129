//! The short way and the long way through an exit decide alike.

use proptest::prelude::*;

use super::machine::*;
use crate::insn::Gprs;
use crate::vcpu::{Action, Plain, Readiness};
use crate::vmx::field;

/// Leaves, MSRs and hypercall numbers that mean something, among any others.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..0x20_u64,
        Just(0x1a0),
        Just(0x3b),
        Just(0x10),
        Just(0x6e0),
        0x800..0x840_u64,
        Just(0xc000_0080),
        0x4000_0000..0x4000_0102_u64,
        0x8000_0000..0x8000_000a_u64,
        any::<u64>(),
    ]
}

/// Everything that an exit can change.
fn state(machine: &Machine) -> impl PartialEq + std::fmt::Debug + use<> {
    let fields: Vec<u64> = field::ALL
        .iter()
        .map(|(_, encoding)| machine.cpu.read_raw(*encoding))
        .collect();
    let counts: Vec<_> = machine.vcpu.counters.exits().collect();
    let cpu = &machine.cpu;
    let timer = machine.vcpu.apic.next_deadline();
    (
        fields,
        machine.gprs,
        counts,
        cpu.xcr0,
        cpu.cr2,
        cpu.dr6,
        timer,
    )
}

/// The local vector table's timer entry: in TSC-deadline mode, and not masked.
const DEADLINE_MODE: u64 = 2 << 17 | 0x40;

fn prepared(
    registers: [u64; 16],
    flags: u64,
    blocking: u32,
    user: bool,
    counting: bool,
) -> Machine {
    let mut machine = Machine::new();
    if !counting {
        let _ = machine.wrmsr(0x832, DEADLINE_MODE);
    }
    machine.gprs = Gprs(registers);
    machine.set_flags(flags);
    machine.block(blocking);
    if user {
        machine.cpu.set(field::GUEST_SS_ACCESS, 0xc0f3);
    }
    machine
}

proptest! {
    #[test]
    fn the_plain_path_decides_as_the_long_one(
        reason in prop_oneof![
            Just(reason::CPUID), Just(reason::VMCALL), Just(reason::RDMSR), Just(reason::WRMSR), 0..80_u32
        ],
        registers in any::<[u64; 16]>(),
        (rax, rcx) in (number(), number()),
        rdx in prop_oneof![Just(0_u64), any::<u64>()],
        debugging in prop_oneof![Just(0), Just(RFLAGS_TF), Just(RFLAGS_RF), Just(RFLAGS_TF | RFLAGS_RF)],
        counting in any::<bool>(),
        blocking in prop_oneof![Just(0_u32), Just(1), Just(2), Just(8)],
        user in any::<bool>(),
        late in prop_oneof![Just(0_u64), Just(1_u64 << 61)],
    ) {
        let mut registers = registers;
        registers[0] = rax;
        registers[1] = rcx;
        registers[2] = rdx;
        let build = || {
            let mut machine = prepared(registers, RFLAGS_IF | debugging, blocking, user, counting);
            machine.cpu.tsc += late;
            machine
        };

        let mut short = build();
        short.leave(reason);
        let noted = short.vcpu.note_exit(&short.cpu);
        let start = short.cpu.tsc;
        let untouched = state(&short);
        let plain = short.vcpu.handle_plain(&mut short.cpu, &mut short.gprs, noted, start);
        let due = match plain {
            Plain::Other => {
                prop_assert_eq!(state(&short), untouched);
                return Ok(());
            }
            Plain::Due => short.vcpu.finish_plain(&mut short.cpu) != Readiness::Enter,
            Plain::Done => false,
        };

        let mut long = build();
        let action = long.exit(reason);
        prop_assert_eq!(action, if due { Action::Leave } else { Action::Resume });
        prop_assert_eq!(state(&short), state(&long));
        prop_assert_eq!(short.vcpu.counters.root_ticks(), long.vcpu.counters.root_ticks());
    }
}

#[test]
fn the_plain_path_takes_what_it_is_for() {
    for (reason, register, value) in [
        (reason::CPUID, RAX, 0),
        (reason::CPUID, RAX, 0x15),
        (reason::VMCALL, RAX, 0),
        (reason::RDMSR, RCX, 0x1a0),
    ] {
        let mut machine = Machine::new();
        machine.gprs.set(register, value);
        machine.leave(reason);
        let start = machine.cpu.tsc;
        let plain = machine
            .vcpu
            .handle_plain(&mut machine.cpu, &mut machine.gprs, reason, start);
        assert_eq!(plain, Plain::Done, "{reason}");
    }
}

#[test]
fn a_deadline_yet_to_come_is_armed_by_the_plain_path_alone() {
    let mut machine = Machine::new();
    assert_eq!(machine.wrmsr(0x832, DEADLINE_MODE), Action::Resume);
    let now = machine.cpu.tsc + TSC_OFFSET;
    for (deadline, expected) in [
        (now + 3_200, Plain::Done),
        (now, Plain::Other),
        (0, Plain::Other),
    ] {
        machine.gprs.set(RCX, 0x6e0);
        machine.gprs.set(RAX, deadline);
        machine.gprs.set(RDX, 0);
        machine.leave(reason::WRMSR);
        let start = machine.cpu.tsc;
        let plain =
            machine
                .vcpu
                .handle_plain(&mut machine.cpu, &mut machine.gprs, reason::WRMSR, start);
        assert_eq!(plain, expected, "{deadline}");
        assert_eq!(machine.vcpu.apic.next_deadline(), Some(now + 3_200));
    }
    assert_eq!(
        machine.cpu.read(field::PREEMPTION_TIMER),
        3_200 >> TIMER_SHIFT
    );
}

#[test]
fn the_plain_path_leaves_when_something_is_due() {
    let mut machine = Machine::new();
    machine.vcpu.attention = true;
    machine.leave(reason::CPUID);
    machine.gprs.set(RAX, 0);
    let start = machine.cpu.tsc;
    let plain =
        machine
            .vcpu
            .handle_plain(&mut machine.cpu, &mut machine.gprs, reason::CPUID, start);
    assert_eq!(plain, Plain::Due);
}
