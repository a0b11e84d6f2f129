//! One vCPU: what each exit means for it, and what the next entry takes along.
//!
//! [`Vcpu`] is its state; `dispatch` is the whole steady state: count, decode once, one line per reason, then prepare the
//! next entry. Effects go through [`Cpu`] and [`DeviceAccess`].
//!
//! | module | what it handles |
//! |---|---|
//! | `dispatch` | each exit's way to its handler, and from there to the next entry |
//! | `effects` | what that reaches: processor, guest memory, vCPUs, devices |
//! | `step` | what comes of an exit |
//! | [`registers`], [`control_register`] | general registers; CR0, CR4 and EFER |
//! | `exception` | exceptions of the host's and the guest's |
//! | [`event`](self) | injection, interrupt and NMI windows, skipping an instruction |
//! | `schedule` | timers, giving the CPU back, waking and halting |
//! | [`mail`] | what other CPUs do to the vCPU |
//! | `startup` | INIT and start-up interrupts |
//! | `interrupt` | what APIC register writes and device lines set off |
//! | `instruction` | CPUID, RDMSR, WRMSR, XSETBV, VMCALL, HLT |
//! | `io` | port accesses, strings included |
//! | `mmio` | EPT violations: device registers, or the end of the VM |
//! | [`split`] | which view the vCPU is in |
//! | [`counters`] | exits by reason, ticks by where they went |

pub mod control_register;
pub mod counters;
mod dispatch;
mod effects;
mod event;
mod exception;
mod instruction;
mod interrupt;
mod io;
mod linear;
pub mod mail;
mod mmio;
pub mod registers;
mod schedule;
pub mod split;
mod startup;
mod step;
#[cfg(test)]
mod tests;

pub use dispatch::Plain;
pub use effects::{Cpu, CpuBus, DeviceAccess, Sides, Signalled};
pub use step::Action;

use crate::addr::Gva;
use crate::apic::LocalApic;
use crate::cpuid::CpuidTable;
use crate::msr::MsrState;
use crate::vmx::capability::Negotiated;
use crate::vmx::controls::Primary;
use crate::vmx::field;
use counters::Counters;
use split::Divided;
use step::{Step, Then};

/// What a vCPU does when its CPU has time for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activity {
    /// It runs.
    Active,
    /// It waits for an interrupt.
    Halted,
    /// It waits for a start-up interrupt.
    WaitForSipi,
}

/// Whether the vCPU can be entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Readiness {
    /// It can.
    Enter,
    /// It could, but its time is over.
    TimeIsOver,
    /// It waits for something.
    Waiting,
}

/// One vCPU.
pub struct Vcpu {
    /// Its local APIC.
    pub apic: LocalApic,
    /// Its CPUID.
    pub cpuid: CpuidTable,
    /// Its emulated MSRs.
    pub msrs: MsrState,
    /// What it did.
    pub counters: Counters,
    /// XCR0 as the guest set it.
    xcr0: u64,
    /// Control words it runs with.
    controls: Negotiated,
    /// The primary controls, which windows change.
    primary: Primary,
    /// Host TSC at which something is due: the APIC timer or the end of the vCPU's time.
    wake_at: u64,
    /// Host TSC at which its CPU is to be given back.
    leave_at: u64,
    /// Something may be pending: look before the next entry.
    attention: bool,
    nmi_pending: bool,
    activity: Activity,
    /// The processor delivers virtual interrupts by itself.
    hardware_delivery: bool,
    /// Vectors whose end exits under hardware delivery, as the VMCS has them.
    eoi_exits: [u64; 4],
    /// Added to the host's TSC.
    tsc_offset: u64,
    /// Which view it is in, where the VM has several.
    divided: Option<Divided>,
}

/// What a vCPU starts from.
pub struct VcpuSetup {
    /// Its local APIC.
    pub apic: LocalApic,
    /// Its CPUID.
    pub cpuid: CpuidTable,
    /// Its emulated MSRs.
    pub msrs: MsrState,
    /// Control words.
    pub controls: Negotiated,
    /// Added to the host's TSC.
    pub tsc_offset: u64,
    /// Where the VM has the kernel/user split.
    pub divided: Option<Divided>,
}

impl Vcpu {
    /// A vCPU about to run its first instruction.
    #[must_use]
    pub fn new(setup: VcpuSetup) -> Self {
        Self {
            apic: setup.apic,
            cpuid: setup.cpuid,
            msrs: setup.msrs,
            counters: Counters::default(),
            xcr0: 1,
            controls: setup.controls,
            primary: Primary::from_bits_retain(setup.controls.primary),
            wake_at: 0,
            leave_at: 0,
            attention: false,
            nmi_pending: false,
            activity: Activity::Active,
            hardware_delivery: setup.controls.apicv(),
            eoi_exits: [0; 4],
            tsc_offset: setup.tsc_offset,
            divided: setup.divided,
        }
    }

    /// The guest's TSC at host TSC `now`.
    #[inline(always)]
    fn guest_tsc(&self, now: u64) -> u64 {
        now.wrapping_add(self.tsc_offset)
    }

    /// XCR0 as the guest set it.
    #[must_use]
    pub const fn xcr0(&self) -> u64 {
        self.xcr0
    }

    /// The control words that it runs with.
    #[must_use]
    pub const fn controls(&self) -> &Negotiated {
        &self.controls
    }

    /// What is added to the host's TSC to give the guest's.
    #[must_use]
    pub const fn tsc_offset(&self) -> u64 {
        self.tsc_offset
    }

    /// What the vCPU does when its CPU has time for it.
    #[must_use]
    pub const fn activity(&self) -> Activity {
        self.activity
    }

    /// Whether nothing but another vCPU or a device's NMI can wake the vCPU: it waits for a start-up interrupt, or it
    /// halted with interrupts off, no single step on its way and no NMI pending.
    pub fn is_deaf<C: Cpu>(&self, cpu: &C) -> bool {
        const WAKING: u64 = event::RFLAGS_IF | event::RFLAGS_TF;
        match self.activity {
            Activity::Active => false,
            Activity::WaitForSipi => true,
            Activity::Halted => {
                cpu.read(field::GUEST_RFLAGS).0 & WAKING == 0
                    && !(self.nmi_pending && event::takes_nmi(cpu))
            }
        }
    }

    /// Where the guest's instruction pointer is, for reports.
    pub fn rip<C: Cpu>(cpu: &C) -> Gva {
        Gva(cpu.read(field::GUEST_RIP).0)
    }
}
