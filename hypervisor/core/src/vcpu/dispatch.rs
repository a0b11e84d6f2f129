//! From an exit to the next entry: each reason to its handler, and what every handler ends with.
//!
//! There are two ways. [`Vcpu::handle_plain`] and [`Vcpu::handle_port`] are for frequent exits: measured, inlined, and
//! leaving what they cannot do to the other. [`Vcpu::handle_exit`] is for all: it decodes once into an [`Exit`], has one line
//! for each reason, and prepares the next entry.

use super::step::{Action, Step, Then};
use super::{Activity, Cpu, DeviceAccess, Readiness, Signalled, Vcpu, event};
use crate::device::board::PortOutcome;
use crate::fault::{GuestFault, StopReason};
use crate::insn::Gprs;
use crate::vmx::exit::{self, Exit, IoAccess, VmxInstruction};
use crate::vmx::field;

/// How far [`Vcpu::handle_plain`] came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Plain {
    /// Enter the guest again.
    Done,
    /// The exit is handled; call [`Vcpu::finish_plain`].
    Due,
    /// The exit is [`Vcpu::handle_exit`]'s.
    Other,
}

impl Vcpu {
    /// Counts the exit that just happened and says why it did, for [`Vcpu::handle_plain`].
    #[inline(always)]
    pub fn note_exit<C: Cpu>(&mut self, cpu: &C) -> u32 {
        let reason = exit::basic_reason(cpu);
        self.counters.count_exit(reason);
        reason
    }

    /// Handles the exits that change nothing but general registers or when the timer is due, and enters again where nothing else
    /// is: the same decisions as [`Vcpu::handle_exit`]'s, without a call, so that the compiler saves no register.
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
            exit::VMCALL => Self::plain_vmcall(cpu, gprs),
            exit::RDMSR => self.plain_rdmsr(gprs),
            exit::WRMSR => self.plain_wrmsr(gprs, start),
            _ => false,
        };
        if !done {
            return Plain::Other;
        }
        let length = cpu.read(field::EXIT_INSTRUCTION_LENGTH);
        event::skip(cpu, length);
        if event::is_debugged(cpu) {
            return self.due(start);
        }
        let now = cpu.tsc();
        if now >= self.wake_at || self.attention {
            return self.due(start);
        }
        self.set_timer(cpu, now);
        self.counters.count_root(start, now);
        Plain::Done
    }

    #[inline(always)]
    fn due(&mut self, start: u64) -> Plain {
        self.counters.leave(start);
        Plain::Due
    }

    /// Does what [`Vcpu::handle_plain`] left to be done where something is [`Plain::Due`], and prepares the next entry.
    pub fn finish_plain<C: Cpu>(&mut self, cpu: &mut C) -> Readiness {
        if event::is_debugged(cpu) {
            let length = cpu.read(field::EXIT_INSTRUCTION_LENGTH);
            event::retire_debugged(cpu, length);
        }
        self.prepare_entry(cpu)
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
                self.vmcall(cpu, gprs);
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
            Exit::ExternalInterrupt(event) => {
                cpu.take_host_interrupt(event.vector());
                Ok(Step::Same(Then::Leave))
            }
            Exit::Exception(event) => match self.exception(cpu, event) {
                Some(step) => Ok(step),
                None => return Action::HostMachineCheck,
            },
            Exit::EptViolation(violation) => self.ept_violation(cpu, gprs, devices, violation),
            Exit::MonitorTrap => self.monitor_trap(cpu),
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
            Exit::Vmx(VmxInstruction::Vmfunc) => self.vmfunc(cpu),
            Exit::DescriptorTable => self.descriptor_table(cpu, reason),
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
}
