//! A processor that only remembers, a guest in 64-bit mode on it, and the ways to make it exit.

use std::collections::BTreeMap;

use crate::addr::Gpa;
use crate::apic::LocalApic;
use crate::bus::{Signal, Signals};
use crate::cpuid::{CpuidConfig, CpuidResult, CpuidTable, VmxInstructions};
use crate::device::board::{Devices, Setup, Start};
use crate::fault::StopReason;
use crate::insn::{GprIndex, Gprs};
use crate::msr::MsrState;
use crate::split::{Name, Place, Side};
use crate::vcpu::mail::Mailbox;
use crate::vcpu::split::Divided;
use crate::vcpu::{
    Action, Activity, Cpu, CpuBus, DeviceAccess, Readiness, Signalled, Vcpu, VcpuSetup,
};
use crate::vmx::capability::{CapabilityMsrs, Negotiated, Wishes};
use crate::vmx::exit::Interruption;
pub use crate::vmx::field::VmcsAccess;
use crate::vmx::field::{self, Field, Natural, Width};

/// Basic exit reasons, as the manual's appendix numbers them.
pub mod reason {
    pub const EXCEPTION: u32 = 0;
    pub const EXTERNAL_INTERRUPT: u32 = 1;
    pub const TRIPLE_FAULT: u32 = 2;
    pub const INTERRUPT_WINDOW: u32 = 7;
    pub const NMI_WINDOW: u32 = 8;
    pub const TASK_SWITCH: u32 = 9;
    pub const CPUID: u32 = 10;
    pub const HLT: u32 = 12;
    pub const INVD: u32 = 13;
    pub const RDPMC: u32 = 15;
    pub const VMCALL: u32 = 18;
    pub const CONTROL_REGISTER: u32 = 28;
    pub const IO: u32 = 30;
    pub const RDMSR: u32 = 31;
    pub const WRMSR: u32 = 32;
    pub const TPR_BELOW_THRESHOLD: u32 = 43;
    pub const VIRTUAL_EOI: u32 = 45;
    pub const EPT_VIOLATION: u32 = 48;
    pub const EPT_MISCONFIGURATION: u32 = 49;
    pub const PREEMPTION_TIMER: u32 = 52;
    pub const WBINVD: u32 = 54;
    pub const XSETBV: u32 = 55;
    pub const APIC_WRITE: u32 = 56;
}

pub const RAX: GprIndex = GprIndex::RAX;
pub const RBX: GprIndex = GprIndex::RBX;
pub const RCX: GprIndex = GprIndex::RCX;
pub const RDX: GprIndex = GprIndex::RDX;
pub const RSI: GprIndex = GprIndex::RSI;
pub const RDI: GprIndex = GprIndex::RDI;

pub const RFLAGS_TF: u64 = 1 << 8;
pub const RFLAGS_IF: u64 = 1 << 9;
pub const RFLAGS_DF: u64 = 1 << 10;
pub const RFLAGS_RF: u64 = 1 << 16;
pub const BLOCKED_BY_STI: u32 = 1;
pub const BLOCKED_BY_MOV_SS: u32 = 2;
pub const BLOCKED_BY_NMI: u32 = 8;

pub const INTERRUPT_WINDOW: u32 = 1 << 2;
pub const NMI_WINDOW: u32 = 1 << 22;
pub const DEBUG_BS: u64 = 1 << 14;

/// Bytes of guest memory.
pub const RAM: usize = 1 << 16;
/// Where the guest runs.
pub const CODE: u64 = 0x8000;
/// A page of 4 KiB at physical [`PAGE`]; the pages after it are not mapped.
pub const MAPPED: u64 = 1 << 30;
/// Where [`MAPPED`] leads.
pub const PAGE: usize = 0x6000;
/// The preemption timer counts once in 32 TSC ticks.
pub const TIMER_SHIFT: u32 = 5;
/// The guest's TSC is ahead of the host's by this.
pub const TSC_OFFSET: u64 = 1_000_000;

const PRESENT_WRITABLE: u64 = 3;
const LARGE: u64 = 1 << 7;

/// The processor: VMCS fields by encoding, memory, and what was done to it.
pub struct FakeCpu {
    vmcs: Vec<u64>,
    pub ram: Vec<u8>,
    pub tsc: u64,
    pub xcr0: u64,
    pub cr2: u64,
    pub dr6: u64,
    pub translations_forgotten: u32,
    pub host_interrupts: Vec<u8>,
    /// The letter-boxes of all vCPUs; the one under test has the first.
    pub mailboxes: Vec<Mailbox>,
    /// Pages of encrypted memory, by number, and what comes of bringing one.
    pub encrypted: BTreeMap<u64, Result<(), StopReason>>,
    /// The view that the next entry is into, once the split chose one.
    pub side: Option<Side>,
    /// Pages that are something to the split, by number.
    pub places: BTreeMap<u64, Place>,
    /// Level-3 tables and names that `user` was prepared for.
    pub admitted: Vec<(Vec<Gpa>, Vec<Name>)>,
    pub lstar: Option<u64>,
    /// The VM has the split.
    pub splits: bool,
    /// How often the guest changed something that it was kept from, and how often it will, once it has been read.
    pub changes: u64,
    pub changes_to_come: u64,
    /// Pages of the kernel's code that were found, where they have to be.
    pub code: Option<Vec<Gpa>>,
    /// The views of the split cannot be changed any more.
    pub split_is_lost: bool,
}

impl FakeCpu {
    /// Sets any field, those that only the processor writes included.
    pub fn set<W: Width, A>(&mut self, field: Field<W, A>, value: W) {
        self.write_raw(field.encoding(), value.into_raw());
    }

    pub fn set_natural<A>(&mut self, field: Field<Natural, A>, value: u64) {
        self.set(field, Natural(value));
    }
}

impl VmcsAccess for FakeCpu {
    fn read_raw(&self, encoding: u32) -> u64 {
        self.vmcs[encoding as usize]
    }

    fn write_raw(&mut self, encoding: u32, value: u64) {
        self.vmcs[encoding as usize] = value;
    }
}

impl Signals for FakeCpu {
    fn vcpus(&self) -> u32 {
        self.mailboxes.len() as u32
    }

    fn signal(&mut self, to: u32, signal: Signal) {
        let _ = self.mailboxes[to as usize].post(signal);
    }
}

impl DeviceAccess for Devices {
    fn with<T>(&mut self, work: impl FnOnce(&mut Devices) -> T) -> T {
        work(self)
    }
}

impl Cpu for FakeCpu {
    fn take_signalled(&mut self) -> Option<Signalled> {
        self.mailboxes[0].is_waiting().then(|| Signalled {
            mail: Some(self.mailboxes[0].take()),
            leave: false,
        })
    }

    fn tsc(&self) -> u64 {
        self.tsc
    }

    fn set_xcr0(&mut self, value: u64) {
        self.xcr0 = value;
    }

    fn set_cr2(&mut self, value: u64) {
        self.cr2 = value;
    }

    fn set_dr6(&mut self, value: u64) {
        self.dr6 = value;
    }

    fn forget_translations(&mut self) {
        self.translations_forgotten += 1;
    }

    fn take_host_interrupt(&mut self, vector: u8) {
        self.host_interrupts.push(vector);
    }

    fn bring(&mut self, gpa: Gpa) -> Option<Result<(), StopReason>> {
        self.encrypted.get(&(gpa.0 >> 12)).copied()
    }

    fn read_guest(&mut self, gpa: Gpa, bytes: &mut [u8]) -> bool {
        let start = gpa.0 as usize;
        let found = start
            .checked_add(bytes.len())
            .and_then(|end| self.ram.get(start..end));
        found.map(|found| bytes.copy_from_slice(found)).is_some()
    }

    fn write_guest(&mut self, gpa: Gpa, bytes: &[u8]) -> bool {
        let start = gpa.0 as usize;
        let found = start
            .checked_add(bytes.len())
            .and_then(|end| self.ram.get_mut(start..end));
        found.map(|found| found.copy_from_slice(bytes)).is_some()
    }
}

/// The processor and one vCPU on it.
pub struct Machine {
    pub cpu: FakeCpu,
    pub gprs: Gprs,
    pub devices: Devices,
    pub vcpu: Vcpu,
    pub apicv: bool,
}

impl Machine {
    /// With interrupts delivered by software.
    pub fn new() -> Self {
        Self::build(false, None)
    }

    /// With the kernel/user split.
    pub fn with_split() -> Self {
        Self::build(false, Some(Divided::new()))
    }

    /// With interrupts delivered by the processor.
    pub fn with_hardware_delivery() -> Self {
        Self::build(true, None)
    }

    fn build(apicv: bool, divided: Option<Divided>) -> Self {
        let controls = Negotiated::from_msrs(
            &capabilities(),
            Wishes {
                apicv,
                ..Wishes::ALL
            },
        )
        .unwrap();
        let config = CpuidConfig {
            apic_id: 0,
            vcpus: 1,
            tsc_khz: 2_400_000,
            instructions: VmxInstructions::all(),
        };
        let splits = divided.is_some();
        let vcpu = Vcpu::new(VcpuSetup {
            apic: LocalApic::new(0, 0),
            cpuid: CpuidTable::build(&mut host_cpuid, &config),
            msrs: MsrState::new(46, 0x1234),
            controls,
            tsc_offset: TSC_OFFSET,
            divided,
        });
        let mut machine = Self {
            cpu: FakeCpu {
                vmcs: vec![0; 0x7000],
                ram: vec![0; RAM],
                tsc: 1_000_000,
                xcr0: 1,
                cr2: 0,
                dr6: 0,
                translations_forgotten: 0,
                host_interrupts: Vec::new(),
                mailboxes: (0..4).map(|_| Mailbox::default()).collect(),
                encrypted: BTreeMap::new(),
                side: None,
                places: BTreeMap::new(),
                admitted: Vec::new(),
                lstar: None,
                splits,
                changes: 0,
                changes_to_come: 0,
                code: None,
                split_is_lost: false,
            },
            gprs: Gprs::default(),
            devices: Devices::new(Setup {
                models: Vec::new(),
                console: crate::manifest::VmConsole::Serial,
                start: Start {
                    unix_seconds: 0,
                    now: 0,
                    tsc_khz: 2_400_000,
                    watchdog_fired: false,
                },
            })
            .unwrap(),
            vcpu,
            apicv,
        };
        machine.start_guest();
        machine.cpu.set(field::PRIMARY_CONTROLS, controls.primary);
        machine.vcpu.begin(machine.cpu.tsc, 1 << 60);
        assert_eq!(
            machine.vcpu.prepare_entry(&mut machine.cpu),
            Readiness::Enter
        );
        // Linux does this first: vectors go nowhere before it.
        assert_eq!(machine.wrmsr(0x80f, 0x1ff), Action::Resume);
        machine
    }

    /// 64-bit mode at CPL 0, interrupts on; the first GiB maps to itself.
    fn start_guest(&mut self) {
        for (at, entry) in [
            (0x1000, 0x2000 | PRESENT_WRITABLE),
            (0x2000, PRESENT_WRITABLE | LARGE),
            (0x2008, 0x3000 | PRESENT_WRITABLE),
            (0x3000, 0x4000 | PRESENT_WRITABLE),
            (0x4000, PAGE as u64 | PRESENT_WRITABLE),
        ] {
            self.put(at, &entry.to_le_bytes());
        }
        let cpu = &mut self.cpu;
        cpu.set_natural(field::GUEST_CR0, 0x8001_0031);
        cpu.set_natural(field::CR0_READ_SHADOW, 0x8001_0031);
        cpu.set_natural(field::GUEST_CR3, 0x1000);
        cpu.set_natural(field::GUEST_CR4, 0x2060);
        cpu.set_natural(field::CR4_READ_SHADOW, 0x20);
        cpu.set(field::GUEST_EFER, 0xd01);
        cpu.set(field::ENTRY_CONTROLS, 1 << 9);
        cpu.set(field::GUEST_CS_ACCESS, 0xa09b);
        cpu.set(field::GUEST_SS_ACCESS, 0xc093);
        cpu.set_natural(field::GUEST_RFLAGS, RFLAGS_IF | 2);
        cpu.set_natural(field::GUEST_RIP, CODE);
        cpu.set(field::EXIT_INSTRUCTION_LENGTH, 2);
    }

    /// Writes guest-physical memory.
    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        self.cpu.ram[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The processor leaves the guest for `reason`, and the entry that follows is one it would accept.
    pub fn exit(&mut self, reason: u32) -> Action {
        let action = self.exit_unchecked(reason);
        if matches!(action, Action::Resume | Action::Poll | Action::Leave) {
            assert_eq!(self.refusal(), None, "entry after exit reason {reason}");
        }
        action
    }

    /// As [`Machine::exit`], without the checks.
    pub fn exit_unchecked(&mut self, reason: u32) -> Action {
        self.leave(reason);
        let reason = self.vcpu.note_exit(&self.cpu);
        let start = self.cpu.tsc;
        self.vcpu.handle_exit(
            &mut self.cpu,
            &mut self.gprs,
            &mut self.devices,
            reason,
            start,
        )
    }

    /// What the processor itself does at an exit.
    pub fn leave(&mut self, reason: u32) {
        let injected = self.cpu.read(field::ENTRY_INTERRUPTION_INFO);
        self.cpu
            .set(field::ENTRY_INTERRUPTION_INFO, injected & !(1 << 31));
        self.cpu.set(field::EXIT_REASON, reason);
    }

    pub fn exit_with(&mut self, reason: u32, qualification: u64) -> Action {
        self.cpu
            .set_natural(field::EXIT_QUALIFICATION, qualification);
        self.exit(reason)
    }

    pub fn wrmsr(&mut self, msr: u32, value: u64) -> Action {
        self.gprs.set(RCX, msr.into());
        self.gprs.set(RAX, value & 0xffff_ffff);
        self.gprs.set(RDX, value >> 32);
        self.exit(reason::WRMSR)
    }

    pub fn rdmsr(&mut self, msr: u32) -> u64 {
        self.gprs.set(RCX, msr.into());
        assert_eq!(self.exit(reason::RDMSR), Action::Resume);
        assert_eq!(self.injected(), None, "RDMSR of {msr:#x}");
        self.gprs.get(RDX) << 32 | self.gprs.get(RAX)
    }

    /// The event that the next entry injects.
    pub fn injected(&self) -> Option<Interruption> {
        Some(Interruption(self.cpu.read(field::ENTRY_INTERRUPTION_INFO)))
            .filter(|event| event.is_valid())
    }

    pub fn rip(&self) -> u64 {
        self.cpu.read(field::GUEST_RIP).0
    }

    /// Whether the vCPU waits for an interrupt.
    pub fn is_halted(&self) -> bool {
        self.vcpu.activity() == Activity::Halted
    }

    /// The vCPU's CPU has time for it: what waited for it arrives.
    pub fn run_again(&mut self) -> Readiness {
        self.vcpu.begin(self.cpu.tsc, 1 << 60);
        if let Some(mail) = self
            .cpu
            .take_signalled()
            .and_then(|signalled| signalled.mail)
        {
            self.vcpu.receive(&mut self.cpu, &mut self.gprs, mail);
        }
        let readiness = self.vcpu.prepare_entry(&mut self.cpu);
        if readiness == Readiness::Enter {
            assert_eq!(self.refusal(), None);
        } else {
            self.vcpu.end(self.cpu.tsc);
        }
        readiness
    }

    /// A device's line changed.
    pub fn route_interrupts(&mut self) {
        self.devices.route_interrupts(&mut CpuBus(&mut self.cpu));
    }

    /// Types a byte; false where the guest has no room.
    pub fn push_input(&mut self, byte: u8) -> bool {
        self.devices.push_input(byte, &mut CpuBus(&mut self.cpu))
    }

    /// Takes what the guest wrote to its console.
    pub fn take_output(&mut self, into: &mut [u8]) -> usize {
        self.devices.take_output(into, &mut CpuBus(&mut self.cpu))
    }

    /// Whether the guest switched its local APIC off.
    pub fn apic_is_off(&self) -> bool {
        self.vcpu.apic.read_msr(0x1b, 0) == Ok(0xfee0_0100)
    }

    pub fn wants(&self, window: u32) -> bool {
        self.cpu.read(field::PRIMARY_CONTROLS) & window != 0
    }

    pub fn block(&mut self, blocking: u32) {
        self.cpu.set(field::GUEST_INTERRUPTIBILITY, blocking);
    }

    pub fn set_flags(&mut self, flags: u64) {
        self.cpu.set_natural(field::GUEST_RFLAGS, flags | 2);
    }

    /// A self-IPI: the shortest way to a pending interrupt.
    pub fn raise(&mut self, vector: u8) -> Action {
        self.wrmsr(0x83f, vector.into())
    }

    /// Real mode, as a flat image starts.
    pub fn enter_real_mode(&mut self) {
        self.cpu.set_natural(field::GUEST_CR0, 0x20);
        self.cpu.set_natural(field::CR0_READ_SHADOW, 0x10);
        self.cpu.set(field::GUEST_EFER, 0);
        self.cpu.set(field::ENTRY_CONTROLS, 0);
        self.cpu.set(field::GUEST_CS_ACCESS, 0x9b);
        self.cpu.set(field::GUEST_SS_ACCESS, 0x93);
    }

    /// A flat 32-bit code segment without paging.
    pub fn enter_protected_mode(&mut self) {
        self.enter_real_mode();
        self.cpu.set_natural(field::GUEST_CR0, 0x21);
        self.cpu.set_natural(field::CR0_READ_SHADOW, 0x11);
        self.cpu.set(field::GUEST_CS_ACCESS, 0xc09b);
        self.cpu.set(field::GUEST_SS_ACCESS, 0xc093);
    }
}

/// A processor that allows every control and forces none.
fn capabilities() -> CapabilityMsrs {
    const ALL: u64 = 0xffff_ffff << 32;
    CapabilityMsrs {
        basic: 0x12 | 4096 << 32 | 6 << 50 | 1 << 55,
        pin: ALL,
        primary: ALL,
        secondary: ALL,
        exit: ALL,
        entry: ALL,
        misc: 1 << 6 | u64::from(TIMER_SHIFT),
        cr0_fixed0: 0x8000_0021,
        cr0_fixed1: u64::MAX,
        cr4_fixed0: 0x2000,
        cr4_fixed1: u64::MAX,
    }
}

/// A host that has every feature; x87, SSE and AVX are its extended state.
fn host_cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    let all = CpuidResult {
        eax: !0,
        ebx: !0,
        ecx: !0,
        edx: !0,
    };
    match (leaf, subleaf) {
        (0, _) => CpuidResult { eax: 0x20, ..all },
        (1, _) => CpuidResult {
            eax: 0x806c1,
            ..all
        },
        (4, 4..) => CpuidResult::default(),
        (0xd, 0) => CpuidResult {
            eax: 7,
            ..CpuidResult::default()
        },
        (0xd, 2) => CpuidResult {
            eax: 256,
            ebx: 576,
            ..CpuidResult::default()
        },
        (0x8000_0000, _) => CpuidResult {
            eax: 0x8000_0008,
            ..CpuidResult::default()
        },
        (0x8000_0008, _) => CpuidResult {
            eax: 0x3927,
            ..CpuidResult::default()
        },
        _ => all,
    }
}
