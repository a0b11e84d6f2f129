//! One vCPU: what each exit means for it, and what the next entry takes along.
//!
//! [`Vcpu::handle_exit`] is the whole steady state: count, decode once into an
//! [`Exit`], one line per reason, then prepare the next entry. Effects go through
//! [`Cpu`], which the shell implements with instructions and tests with maps.
//!
//! | module | what it handles |
//! |---|---|
//! | [`registers`], [`control_register`] | general registers; CR0, CR4 and EFER |
//! | [`event`](self) | injection, interrupt and NMI windows, skipping an instruction |
//! | `schedule` | timers, giving the CPU back, waking and halting |
//! | [`mail`] | what other CPUs do to the vCPU |
//! | `startup` | INIT and start-up interrupts |
//! | `interrupt` | what APIC register writes and device lines set off |
//! | `instruction` | CPUID, RDMSR, WRMSR, XSETBV, VMCALL, HLT |
//! | `io` | port accesses, strings included |
//! | `mmio` | EPT violations: device registers, or the end of the VM |
//! | [`counters`] | exits by reason, ticks by where they went |

pub mod control_register;
pub mod counters;
mod event;
mod instruction;
mod interrupt;
mod io;
mod linear;
pub mod mail;
mod mmio;
pub mod registers;
mod schedule;
mod startup;
#[cfg(test)]
mod tests;

use crate::addr::{Gpa, Gva};
use crate::apic::LocalApic;
use crate::bus::{GuestRam, Signal, Signals};
use crate::cpuid::CpuidTable;
use crate::device::board::{Devices, PortOutcome};
use crate::fault::{GuestFault, StopReason};
use crate::msr::MsrState;
use crate::vmx::capability::Negotiated;
use crate::vmx::controls::Primary;
use crate::vmx::exit::{self, CrAccess, Exit, Interruption, IoAccess};
use crate::vmx::field::{self, VmcsAccess};
use counters::Counters;
use mail::Mail;
use registers::{GprIndex, Gprs};

/// What handling an exit can do to the processor, to guest memory, and to the vCPUs of the VM.
pub trait Cpu: VmcsAccess + Signals {
    /// The host's time-stamp counter.
    fn tsc(&self) -> u64;
    /// Loads XCR0 with a value that [`CpuidTable::validate_xcr0`] accepted.
    fn set_xcr0(&mut self, value: u64);
    /// Loads CR2, which VM entries do not.
    fn set_cr2(&mut self, value: u64);
    /// Loads DR6, which VM entries do not.
    fn set_dr6(&mut self, value: u64);
    /// Forgets the guest's linear translations, which carry its VPID through exits.
    fn forget_translations(&mut self);
    /// Ends the host interrupt that the last exit acknowledged.
    fn end_host_interrupt(&mut self);
    /// Copies guest memory from a physical address on; false where there is none.
    fn read_guest(&mut self, gpa: Gpa, bytes: &mut [u8]) -> bool;
    /// Copies to guest memory from a physical address on; false where there is none.
    fn write_guest(&mut self, gpa: Gpa, bytes: &[u8]) -> bool;
    /// What came of the signals that handling this exit sent.
    fn take_signalled(&mut self) -> Option<Signalled>;
}

/// What came of the signals that handling one exit sent, by the vCPU or by its devices on its behalf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Signalled {
    /// What the vCPU itself got.
    pub mail: Option<Mail>,
    /// Another vCPU of the same CPU got something.
    pub leave: bool,
}

/// A [`Cpu`] as device models see it.
pub struct CpuBus<'a, C>(pub &'a mut C);

impl<C: Cpu> GuestRam for CpuBus<'_, C> {
    fn read(&mut self, gpa: Gpa, bytes: &mut [u8]) -> bool {
        self.0.read_guest(gpa, bytes)
    }

    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> bool {
        self.0.write_guest(gpa, bytes)
    }
}

impl<C: Cpu> Signals for CpuBus<'_, C> {
    fn vcpus(&self) -> u32 {
        self.0.vcpus()
    }

    fn signal(&mut self, to: u32, signal: Signal) {
        self.0.signal(to, signal);
    }
}

/// The devices of the vCPU's VM, which its vCPUs share: the shell has them behind a lock.
pub trait DeviceAccess {
    /// Works on the devices, alone.
    fn with<T>(&mut self, work: impl FnOnce(&mut Devices) -> T) -> T;
}

/// What the shell does after an exit was handled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Action {
    /// Enter the guest again.
    Resume,
    /// Give the CPU back: the vCPU waits, its time is over, or another CPU wants something.
    Leave,
    /// Move the console bytes that wait, then [`Vcpu::prepare_entry`].
    Poll,
    /// Take frames from this network card, then [`Vcpu::prepare_entry`].
    Transmit(u8),
    /// An NMI of the host's arrived; give the CPU back.
    HostNmi,
    /// The VM is over.
    Stop(StopReason),
    /// A machine check arrived while the guest ran: the machine is not to be trusted any further.
    HostMachineCheck,
}

/// How far [`Vcpu::handle_plain`] came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Plain {
    /// Enter the guest again.
    Done,
    /// The exit is handled; call [`Vcpu::prepare_entry`].
    Due,
    /// The exit is [`Vcpu::handle_exit`]'s.
    Other,
}

/// What the shell does after an instruction that did not end the VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Then {
    Resume,
    Leave,
    Poll,
    Transmit(u8),
    HostNmi,
}

impl From<Then> for Action {
    #[inline(always)]
    fn from(then: Then) -> Self {
        match then {
            Then::Resume => Self::Resume,
            Then::Leave => Self::Leave,
            Then::Poll => Self::Poll,
            Then::Transmit(nic) => Self::Transmit(nic),
            Then::HostNmi => Self::HostNmi,
        }
    }
}

/// What became of the instruction that exited, and what the shell does then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// It is done: skip it.
    Next(Then),
    /// It waits, done, for an interrupt.
    Halt,
    /// It runs again, there was none, or it was skipped already.
    Same(Then),
}

impl Step {
    const NEXT: Self = Self::Next(Then::Resume);
    const SAME: Self = Self::Same(Then::Resume);
}

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
        }
    }

    /// The guest's TSC at host TSC `now`.
    #[inline(always)]
    fn guest_tsc(&self, now: u64) -> u64 {
        now.wrapping_add(self.tsc_offset)
    }

    /// Counts the exit that just happened and says why it did, for [`Vcpu::handle_plain`].
    #[inline(always)]
    pub fn note_exit<C: Cpu>(&mut self, cpu: &C) -> u32 {
        let reason = exit::basic_reason(cpu);
        self.counters.count_exit(reason);
        reason
    }

    /// Handles the exits that change nothing but general registers, and enters again where nothing is due:
    /// the same decisions as [`Vcpu::handle_exit`]'s, without a call, so that the compiler saves no register.
    ///
    /// `start` is the host TSC of the exit.
    #[inline(always)]
    pub fn handle_plain<C: Cpu>(
        &mut self,
        cpu: &mut C,
        gprs: &mut Gprs,
        reason: u32,
        start: u64,
    ) -> Plain {
        let done = match reason {
            exit::CPUID => self.plain_cpuid(gprs),
            exit::VMCALL => {
                Self::vmcall(cpu, gprs);
                true
            }
            exit::RDMSR => self.plain_rdmsr(gprs),
            _ => false,
        };
        if !done {
            return Plain::Other;
        }
        event::advance(cpu);
        let now = cpu.tsc();
        if now >= self.wake_at || self.attention {
            self.counters.leave(start);
            return Plain::Due;
        }
        self.set_timer(cpu, now);
        self.counters.count_root(start, now);
        Plain::Done
    }

    /// Handles a port access, the most frequent of the exits that need a device, by the shortest way: the same decisions as
    /// [`Vcpu::handle_exit`]'s. `None` leaves the exit, untouched, to that: it is a string's.
    #[inline(always)]
    pub fn handle_port<C: Cpu, D: DeviceAccess>(
        &mut self,
        cpu: &mut C,
        gprs: &mut Gprs,
        devices: &mut D,
        start: u64,
    ) -> Option<Action> {
        let access = IoAccess::decode(cpu.read(field::EXIT_QUALIFICATION).0);
        if access.string {
            return None;
        }
        let outcome = Self::access_port(cpu, gprs, devices, access, start);
        if outcome != PortOutcome::Nothing {
            return Some(self.port_outcome(cpu, gprs, outcome, start));
        }
        event::advance(cpu);
        let signalled = cpu.take_signalled();
        let now = cpu.tsc();
        if signalled.is_none() && now < self.wake_at && !self.attention {
            self.set_timer(cpu, now);
            self.counters.count_root(start, now);
            return Some(Action::Resume);
        }
        self.counters.leave(start);
        let leave = match signalled {
            Some(signalled) => self.signalled(cpu, gprs, signalled),
            None => false,
        };
        let ready = self.prepare_entry(cpu) == Readiness::Enter;
        Some(if ready && !leave {
            Action::Resume
        } else {
            Action::Leave
        })
    }

    #[inline(never)]
    fn port_outcome<C: Cpu>(
        &mut self,
        cpu: &mut C,
        gprs: &mut Gprs,
        outcome: PortOutcome,
        start: u64,
    ) -> Action {
        self.counters.leave(start);
        self.conclude(cpu, gprs, Self::after_port(outcome))
    }

    /// Handles the exit noted last, which happened at host TSC `start`, and prepares the next entry.
    #[inline]
    pub fn handle_exit<C: Cpu, D: DeviceAccess>(
        &mut self,
        cpu: &mut C,
        gprs: &mut Gprs,
        devices: &mut D,
        reason: u32,
        start: u64,
    ) -> Action {
        self.counters.leave(start);
        let step = match Exit::decode(cpu, reason) {
            Exit::Cpuid => self.cpuid_exit(cpu, gprs),
            Exit::Rdmsr => self.rdmsr(cpu, gprs, start),
            Exit::Wrmsr => self.wrmsr(cpu, gprs, devices, start),
            Exit::Io(access) => self.io(cpu, gprs, devices, access, start),
            Exit::Vmcall => {
                Self::vmcall(cpu, gprs);
                Ok(Step::NEXT)
            }
            Exit::Hlt => Ok(Step::Halt),
            Exit::PreemptionTimer
            | Exit::InterruptWindow
            | Exit::NmiWindow
            | Exit::TprBelowThreshold => {
                self.attention = true;
                Ok(Step::SAME)
            }
            Exit::ExternalInterrupt(_) => {
                cpu.end_host_interrupt();
                Ok(Step::Same(Then::Leave))
            }
            Exit::Exception(event) => match self.exception(cpu, event) {
                Some(step) => Ok(step),
                None => return Action::HostMachineCheck,
            },
            Exit::EptViolation(violation) => self.ept_violation(cpu, gprs, devices, violation),
            Exit::Cr(access) => self.control_register(cpu, gprs, access),
            Exit::Xsetbv => self.xsetbv(cpu, gprs),
            Exit::VirtualEoi(vector) => {
                Self::end_of_level(cpu, devices, vector);
                self.attention = true;
                Ok(Step::SAME)
            }
            Exit::ApicWrite(offset) => self.apic_write(cpu, devices, offset, start),
            // Nothing passed through needs the caches written back: no device of a guest reads memory
            // behind their back.
            Exit::Invd | Exit::Wbinvd => Ok(Step::NEXT),
            Exit::Rdpmc => Err(GuestFault::GP0),
            // CPUID shows none of these.
            Exit::Vmx(_) | Exit::Monitor | Exit::Mwait => Err(GuestFault::Ud),
            Exit::TripleFault => Err(GuestFault::Stop(StopReason::TripleFault)),
            Exit::TaskSwitch => Err(GuestFault::Stop(StopReason::TaskSwitch)),
            Exit::EptMisconfiguration(_) => {
                Err(GuestFault::Stop(StopReason::UnexpectedExit(reason)))
            }
            Exit::EntryFailed(exit::ENTRY_MACHINE_CHECK) => return Action::HostMachineCheck,
            Exit::EntryFailed(_) | Exit::Unknown(_) => {
                Err(GuestFault::Stop(StopReason::UnexpectedExit(reason)))
            }
        };
        self.conclude(cpu, gprs, step)
    }

    /// Finishes what a handler began, and prepares the next entry.
    #[inline(always)]
    fn conclude<C: Cpu>(
        &mut self,
        cpu: &mut C,
        gprs: &mut Gprs,
        step: Result<Step, GuestFault>,
    ) -> Action {
        let then = match step {
            Ok(Step::Next(then)) => {
                event::advance(cpu);
                then
            }
            Ok(Step::Halt) => {
                event::advance(cpu);
                self.activity = Activity::Halted;
                self.attention = true;
                Then::Resume
            }
            Ok(Step::Same(then)) => then,
            Err(GuestFault::Stop(reason)) => return Action::Stop(reason),
            Err(fault) => {
                self.counters.faults += 1;
                event::inject_fault(cpu, fault);
                Then::Resume
            }
        };
        let leave = match cpu.take_signalled() {
            Some(signalled) => self.signalled(cpu, gprs, signalled),
            None => false,
        };
        let readiness = self.prepare_entry(cpu);
        // What a device asked for is done before the CPU is given back.
        if then == Then::Resume && (leave || readiness != Readiness::Enter) {
            Action::Leave
        } else {
            then.into()
        }
    }

    /// Takes what handling the exit had sent to the vCPU itself; true where its CPU has to be given back.
    #[cold]
    fn signalled<C: Cpu>(&mut self, cpu: &mut C, gprs: &mut Gprs, signalled: Signalled) -> bool {
        if let Some(mail) = signalled.mail {
            self.receive(cpu, gprs, mail);
        }
        signalled.leave
    }

    /// XCR0 as the guest set it.
    #[must_use]
    pub const fn xcr0(&self) -> u64 {
        self.xcr0
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

    /// Host exceptions that reached us through the guest; `None` for a machine check.
    fn exception<C: Cpu>(&mut self, cpu: &mut C, event: Interruption) -> Option<Step> {
        const DEBUG: u8 = 1;
        const MACHINE_CHECK: u8 = 18;
        const DR6_FIXED: u64 = 0xffff_0ff0;
        const DEBUGCTL_LBR: u64 = 1;
        const DR7_GD: u64 = 1 << 13;
        if event.kind() == Interruption::NMI {
            // The host's NMI: counted by reason; what it interrupted goes on.
            event::reinject_interrupted(cpu);
            return Some(Step::Same(Then::HostNmi));
        }
        if event.vector() == MACHINE_CHECK {
            return None;
        }
        self.put_back_interrupted(cpu);
        match event.vector() {
            DEBUG => {
                // Delivery by the CPU would have done this (Intel SDM vol. 3C, "Basic VM-Exit Information").
                let cause = cpu.read(field::EXIT_QUALIFICATION).0;
                cpu.set_dr6(DR6_FIXED ^ (cause & (1 << 16)) | (cause & 0x600f));
                let debugctl = cpu.read(field::GUEST_DEBUGCTL);
                cpu.write(field::GUEST_DEBUGCTL, debugctl & !DEBUGCTL_LBR);
                let dr7 = cpu.read(field::GUEST_DR7).0;
                cpu.write(field::GUEST_DR7, field::Natural(dr7 & !DR7_GD));
                event::keep_single_step(cpu);
                event::reflect(cpu, event);
            }
            _ => event::reflect(cpu, event),
        }
        Some(Step::SAME)
    }

    fn control_register<C: Cpu>(
        &mut self,
        cpu: &mut C,
        gprs: &Gprs,
        access: CrAccess,
    ) -> Result<Step, GuestFault> {
        let value = |cpu: &C, gpr: u8| match GprIndex::new(gpr) {
            GprIndex::RSP => cpu.read(field::GUEST_RSP).0,
            index => gprs.get(index),
        };
        match access {
            CrAccess::Write { cr: 0, gpr } => {
                control_register::write_cr0(cpu, &self.controls, value(cpu, gpr))?;
            }
            CrAccess::Write { cr: 4, gpr } => {
                control_register::write_cr4(
                    cpu,
                    &self.controls,
                    self.cpuid.allowed_cr4(),
                    value(cpu, gpr),
                )?;
            }
            // No control that makes other accesses exit is on.
            _ => return Err(GuestFault::Stop(StopReason::UnexpectedExit(28))),
        }
        Ok(Step::NEXT)
    }

    /// Where the guest's instruction pointer is, for reports.
    pub fn rip<C: Cpu>(cpu: &C) -> Gva {
        Gva(cpu.read(field::GUEST_RIP).0)
    }
}
