//! A million exits with registers, memory and VMCS contents that nobody arranged: none may panic, and every entry that
//! follows is one the processor accepts.

use super::machine::*;
use crate::apic::Trigger;
use crate::bus::{Signal, Signals};
use crate::insn::GprIndex;
use crate::platform::{COM1_BASE, IOAPIC_BASE, POWER_SLEEP_CONTROL_PORT, RESET_PORT};
use crate::split::{Place, Side};
use crate::testing::Random;
use crate::vcpu::{Action, Activity, Cpu, CpuBus, Plain, Readiness};
use crate::vmx::exit::Interruption;
use crate::vmx::field::{self, Natural};

const EXITS: u32 = 1_000_000;

trait Telling {
    /// Numbers around which decisions turn, and any others.
    fn wild(&mut self) -> u64;
    /// The same of guest physical addresses.
    fn address(&mut self) -> u64;
}

impl Telling for Random {
    fn wild(&mut self) -> u64 {
        match self.below(6) {
            0 => self.below(0x100),
            1 => u64::MAX - self.below(0x100),
            2 => 1 << self.below(64),
            3 => self.below(1 << 31),
            4 => MAPPED + self.below(0x2000),
            _ => self.next(),
        }
    }

    fn address(&mut self) -> u64 {
        match self.below(4) {
            0 => self.wild(),
            1 => IOAPIC_BASE.0 + self.below(0x60),
            2 => MAPPED + 0xff0 + self.below(0x20),
            _ => self.below(RAM as u64),
        }
    }
}

/// Registers that lead somewhere now and then.
fn shuffle_registers(machine: &mut Machine, random: &mut Random) {
    for number in 0..16 {
        if random.one_in(3) {
            machine.gprs.set(GprIndex::new(number), random.wild());
        }
    }
    let msr = match random.below(5) {
        0 => 0x800 + random.below(0x40),
        1 => random.of(&[
            0x10,
            0x3b,
            0x1b,
            0x277,
            0x6e0,
            0xc000_0080,
            0xc000_0082,
            0x1a0,
            0x1d9,
        ]),
        2 => 0x200 + random.below(0x100),
        3 => random.of(&[0x832, 0x838, 0x83e, 0x6e0, 0x830, 0x80b, 0x808, 0x80f]),
        _ => random.wild(),
    };
    machine.gprs.set(RCX, msr);
    if random.one_in(2) {
        machine.gprs.set(RDX, random.below(4));
        let value = random.of(&[0x1ff, 0x31, 0x400ec, 0x200ec, 0, 0x4_4400, 0x8_4041, 0x50]);
        machine.gprs.set(RAX, value | random.below(4) << 4);
    }
}

/// Guest state that a processor could have left behind.
fn shuffle_guest(machine: &mut Machine, random: &mut Random) {
    let halted = machine.is_halted();
    let cpu = &mut machine.cpu;
    if random.one_in(3) && !halted {
        let interrupts = if random.one_in(2) { RFLAGS_IF } else { 0 };
        let other = random.next() & (RFLAGS_TF | RFLAGS_DF | 1 << 18);
        cpu.set_natural(field::GUEST_RFLAGS, interrupts | other | 2);
        let sti = if interrupts != 0 { BLOCKED_BY_STI } else { 0 };
        let shadow = random.of(&[0, 0, sti, BLOCKED_BY_MOV_SS]);
        let nmi = random.of(&[0, BLOCKED_BY_NMI]);
        cpu.set(field::GUEST_INTERRUPTIBILITY, shadow | nmi);
        let stepping = shadow != 0 && other & RFLAGS_TF != 0;
        cpu.set_natural(
            field::GUEST_PENDING_DEBUG,
            if stepping { DEBUG_BS } else { 0 },
        );
    }
    if random.one_in(8) {
        cpu.set_natural(
            field::GUEST_RIP,
            random.of(&[CODE, MAPPED + 0xffa, 0x10_0000]),
        );
        cpu.set_natural(field::GUEST_CS_BASE, random.wild());
        cpu.set_natural(field::GUEST_CR3, random.of(&[0x1000, 0x1000, 0, random.0]));
        cpu.set(field::GUEST_SS_ACCESS, random.of(&[0xc093, 0xc0f3]));
    }
    if random.one_in(16) {
        match random.below(3) {
            0 => machine.enter_real_mode(),
            1 => machine.enter_protected_mode(),
            _ => {
                cpu.set_natural(field::GUEST_CR0, 0x8001_0031);
                cpu.set_natural(field::GUEST_CR4, random.of(&[0x2060, 0x30_2060, 0x2_2060]));
                cpu.set(field::GUEST_EFER, 0xd01);
                cpu.set(field::ENTRY_CONTROLS, 1 << 9);
                cpu.set(field::GUEST_CS_ACCESS, 0xa09b);
            }
        }
    }
    let code_is_64 = machine.cpu.read(field::GUEST_CS_ACCESS) & 1 << 13 != 0
        && machine.cpu.read(field::ENTRY_CONTROLS) & 1 << 9 != 0;
    if !code_is_64 {
        let rip = machine.rip() & 0xffff_ffff;
        machine.cpu.set_natural(field::GUEST_RIP, rip);
    }
}

/// The exit information of `reason`, and of every other.
fn shuffle_exit(machine: &mut Machine, random: &mut Random, reason: u32) {
    let ports = [COM1_BASE, COM1_BASE + 4, COM1_BASE - 2, 0x80, 0xffff];
    let port = match random.below(400) {
        0 => POWER_SLEEP_CONTROL_PORT,
        1 => RESET_PORT,
        _ => random.of(&ports),
    };
    let qualification = match reason {
        reason::IO => u64::from(port) << 16 | random.below(0x80),
        reason::CONTROL_REGISTER => random.of(&[0, 4, 3, 0x10, 0x20]) | random.below(16) << 8,
        reason::EPT_VIOLATION => random.of(&[0x180, 0x180, 0x1a0, 0x080]) | random.below(8),
        reason::APIC_WRITE => random.below(0x100) << 4,
        _ => random.wild(),
    };
    let event = match random.below(6) {
        0 => Interruption::nmi().0,
        1 => Interruption::exception(17, true).0,
        2 => Interruption::exception(random.of(&[0, 6, 7, 16, 18]), false).0,
        _ => Interruption::exception(1, false).0,
    };
    let flags = machine.cpu.read(field::GUEST_RFLAGS).0;
    let shadow = machine.cpu.read(field::GUEST_INTERRUPTIBILITY) & 3;
    let deliverable = flags & RFLAGS_IF != 0 && shadow == 0 && !machine.is_halted();
    let interrupted = match random.below(12) {
        0 if deliverable => Interruption::external(random.next() as u8).0,
        1 if deliverable => Interruption::nmi().0,
        2 if deliverable => 1 << 31 | 4 << 8 | random.below(256) as u32,
        _ => 0,
    };
    let real = machine.cpu.read(field::GUEST_CR0).0 & 1 == 0;
    // Without protection there are no error codes, and so no alignment checks.
    let event = if real {
        Interruption::exception(1, false).0
    } else {
        event
    };
    let gpa = random.address();
    let linear = random.address();
    let cpu = &mut machine.cpu;
    cpu.set(field::EXIT_QUALIFICATION, Natural(qualification));
    cpu.set(field::EXIT_INTERRUPTION_INFO, event);
    cpu.set(
        field::EXIT_INTERRUPTION_ERROR_CODE,
        random.below(0x8000) as u32,
    );
    cpu.set(field::IDT_VECTORING_INFO, interrupted);
    cpu.set(field::EXIT_INSTRUCTION_LENGTH, 1 + random.below(15) as u32);
    cpu.set(field::EXIT_INSTRUCTION_INFO, random.next() as u32);
    cpu.set(field::GUEST_PHYSICAL_ADDRESS, gpa);
    cpu.set_natural(field::GUEST_LINEAR_ADDRESS, linear);
}

/// Code and page tables that are wrong in places.
fn shuffle_memory(machine: &mut Machine, random: &mut Random) {
    let opcodes: [&[u8]; 6] = [
        &[0x89, 0x03],
        &[0x8b, 0x03],
        &[0x48, 0xc7, 0x03, 1, 0, 0, 0],
        &[0x0f, 0xb7, 0x04, 0x25],
        &[0x66, 0x8a, 0x63, 0x10],
        &[0xf0, 0x01, 0x03],
    ];
    let rip = machine.rip() as usize;
    let code = random.of(&opcodes);
    if rip < RAM - 16 {
        machine.put(rip, code);
        if random.one_in(4) {
            machine.cpu.ram[rip + random.below(8) as usize] = random.next() as u8;
        }
    }
    if random.one_in(64) {
        let at = random.of(&[0x1000, 0x2000, 0x2008, 0x3000, 0x4000, 0x4008]);
        let entry = random.next() & random.of(&[u64::MAX, 0xf_f067, 0x7f_ffff, 0]);
        machine.put(at, &entry.to_le_bytes());
    }
}

/// Exits by kind, with those that change much less often than those that do not.
fn choose_reason(random: &mut Random) -> u32 {
    match random.below(20) {
        0..=3 => reason::WRMSR,
        4..=6 => reason::IO,
        7..=9 => reason::EPT_VIOLATION,
        10 => reason::HLT,
        11 => reason::CONTROL_REGISTER,
        12 => reason::EXCEPTION,
        13 => random.of(&[reason::CPUID, reason::RDMSR, reason::VMCALL]),
        14 => random.of(&[reason::PREEMPTION_TIMER, reason::INTERRUPT_WINDOW]),
        15 => random.of(&[reason::VIRTUAL_EOI, reason::TPR_BELOW_THRESHOLD]),
        16 if random.one_in(50) => random.next() as u32,
        _ => random.below(80) as u32,
    }
}

/// Exits that can happen to a guest that does nothing.
/// What may end a halt: an interrupt from elsewhere, an NMI, a typed byte.
fn wake(machine: &mut Machine, random: &mut Random) {
    match random.below(4) {
        0 => machine.cpu.signal(0, Signal::Nmi),
        1 | 2 => {
            let signal = Signal::Interrupt {
                vector: random.next() as u8,
                trigger: random.of(&[Trigger::Edge, Trigger::Level]),
            };
            machine.cpu.signal(0, signal);
        }
        _ => machine.route_interrupts(),
    }
}

/// The guest switches its APIC off while an interrupt may wait for its priority; true where it goes on.
fn switch_apic_off(machine: &mut Machine, random: &mut Random) -> bool {
    [
        (0x808, random.below(0x100)),
        (0x83f, random.below(0x100)),
        (0x1b, 0xfee0_0100),
    ]
    .into_iter()
    .all(|(msr, value)| matches!(machine.wrmsr(msr, value), Action::Resume | Action::Poll))
}

fn storm(mut fresh: impl FnMut() -> Machine, seed: u64, exits: u32) -> [u32; 5] {
    let mut random = Random(seed);
    let mut machine = fresh();
    let [mut resumed, mut injected, mut halted, mut stopped, mut user] = [0; 5];
    for _ in 0..exits {
        let waits = machine.vcpu.activity() != Activity::Active;
        let halted_for_good = waits && random.one_in(16);
        let apic_off = machine.apic_is_off() && random.one_in(64);
        let ended = !waits && random.one_in(500) && !switch_apic_off(&mut machine, &mut random);
        if halted_for_good || apic_off || ended {
            // Some sleep for good: NMIs are blocked and interrupts disabled. Nor does an APIC that is off come back.
            machine = fresh();
        }
        if machine.vcpu.activity() != Activity::Active {
            wake(&mut machine, &mut random);
            if machine.vcpu.activity() == Activity::WaitForSipi {
                machine.cpu.signal(0, Signal::Startup(random.next() as u8));
            }
            machine.cpu.tsc = machine.cpu.tsc.wrapping_add(random.below(20_000));
            if machine.run_again() != Readiness::Enter {
                continue;
            }
        }
        if random.one_in(1000) {
            machine.cpu.signal(0, Signal::Init);
        }
        user += u32::from(machine.cpu.side == Some(Side::User));
        let reason = choose_reason(&mut random);
        shuffle_guest(&mut machine, &mut random);
        shuffle_registers(&mut machine, &mut random);
        shuffle_exit(&mut machine, &mut random, reason);
        shuffle_memory(&mut machine, &mut random);
        machine.cpu.tsc = match random.below(2000) {
            0 => random.next(),
            _ => machine.cpu.tsc.wrapping_add(random.below(20_000)),
        };
        match exit(&mut machine, reason) {
            Action::Resume
            | Action::Leave
            | Action::HostNmi
            | Action::Poll
            | Action::Transmit(_) => {
                resumed += 1;
                injected += u32::from(machine.injected().is_some());
                let waits = machine.vcpu.activity() != Activity::Active;
                halted += u32::from(waits);
                if !waits {
                    assert_eq!(machine.refusal(), None, "after exit reason {reason}");
                }
            }
            Action::Stop(_) | Action::HostMachineCheck => {
                stopped += 1;
                machine = fresh();
            }
        }
    }
    [resumed, injected, halted, stopped, user]
}

/// One exit the way the shell handles it.
fn exit(machine: &mut Machine, reason: u32) -> Action {
    machine.leave(reason);
    let noted = machine.vcpu.note_exit(&machine.cpu);
    let start = machine.cpu.tsc;
    let Machine {
        cpu,
        gprs,
        devices,
        vcpu,
        ..
    } = machine;
    let action = match vcpu.handle_plain(cpu, gprs, noted, start) {
        Plain::Done => Action::Resume,
        Plain::Due => match vcpu.finish_plain(cpu) {
            Readiness::Enter => Action::Resume,
            _ => Action::Leave,
        },
        Plain::Other => vcpu.handle_exit(cpu, gprs, devices, noted, start),
    };
    if action == Action::Poll {
        let _ = devices.take_output(&mut [0; 64], &mut CpuBus(cpu));
        let _ = devices.push_input(b'x', &mut CpuBus(cpu));
        devices.route_interrupts(&mut CpuBus(cpu));
        if let Some(mail) = cpu.take_signalled().and_then(|signalled| signalled.mail) {
            vcpu.receive(cpu, gprs, mail);
        }
        let _ = vcpu.prepare_entry(cpu);
    }
    action
}

#[test]
fn a_million_exits_never_panic_and_always_leave_a_valid_entry() {
    for (machine, seed) in [
        (Machine::new as fn() -> Machine, 0x1234_5678_9abc_def1),
        (Machine::with_hardware_delivery, 0xfeed_face_0bad_cafe),
        (divided, 0x0ddb_a11c_afe5_eed5),
    ] {
        let [resumed, injected, halted, stopped, user] = storm(machine, seed, EXITS / 3);
        let counts = format!(
            "{resumed} resumed, {injected} injected, {halted} halted, {stopped} stopped, {user} in user code"
        );
        assert!(resumed > EXITS / 6, "{counts}");
        assert!(injected > 6_000, "{counts}");
        assert!(halted > 600, "{counts}");
        assert!(stopped > 600, "{counts}");
        assert_eq!(user > 1_000, machine().cpu.side.is_some(), "{counts}");
    }
}

/// With the split, in the `kernel` view; some of its pages are tables.
fn divided() -> Machine {
    let mut machine = Machine::with_split();
    assert_eq!(machine.wrmsr(0xc000_0082, 0), Action::Resume);
    machine.cpu.places.insert(5, Place::Barrier);
    machine
}
