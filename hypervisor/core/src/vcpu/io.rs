//! Port accesses: to the VM's devices, or to nothing. An unclaimed port reads as all ones and swallows writes, as on
//! a PC bus; every port exits, so no host device is reachable.

use super::registers::{GprIndex, Gprs, RDI, RSI};
use super::{Cpu, CpuBus, DeviceAccess, Step, Then, Vcpu, event, linear};
use crate::addr::Gva;
use crate::device::board::PortOutcome;
use crate::fault::{GuestFault, StopReason};
use crate::vmx::exit::IoAccess;
use crate::vmx::field;

impl Vcpu {
    #[inline(always)]
    pub(super) fn io<C: Cpu, D: DeviceAccess>(
        &mut self,
        cpu: &mut C,
        gprs: &mut Gprs,
        devices: &mut D,
        access: IoAccess,
        now: u64,
    ) -> Result<Step, GuestFault> {
        if access.string {
            return self.string_io(cpu, gprs, devices, access, now);
        }
        Self::after_port(Self::access_port(cpu, gprs, devices, access, now))
    }

    /// An access that is not a string's.
    #[inline(always)]
    pub(super) fn access_port<C: Cpu, D: DeviceAccess>(
        cpu: &mut C,
        gprs: &mut Gprs,
        devices: &mut D,
        access: IoAccess,
        now: u64,
    ) -> PortOutcome {
        if access.input {
            let (value, outcome) = Self::read_port(cpu, devices, access, now);
            let rax = gprs.get(GprIndex::RAX);
            let merged = match access.size {
                1 => (rax & !0xff) | u64::from(value & 0xff),
                2 => (rax & !0xffff) | u64::from(value & 0xffff),
                _ => u64::from(value),
            };
            gprs.set(GprIndex::RAX, merged);
            outcome
        } else {
            let value = gprs.get(GprIndex::RAX) as u32;
            Self::write_port(cpu, devices, access, value, now)
        }
    }

    #[inline(always)]
    fn read_port<C: Cpu, D: DeviceAccess>(
        cpu: &mut C,
        devices: &mut D,
        access: IoAccess,
        now: u64,
    ) -> (u32, PortOutcome) {
        devices.with(|devices| devices.read_port(access.port, access.size, now, &mut CpuBus(cpu)))
    }

    #[inline(always)]
    fn write_port<C: Cpu, D: DeviceAccess>(
        cpu: &mut C,
        devices: &mut D,
        access: IoAccess,
        value: u32,
        now: u64,
    ) -> PortOutcome {
        devices.with(|devices| {
            devices.write_port(access.port, access.size, value, now, &mut CpuBus(cpu))
        })
    }

    #[inline(always)]
    pub(super) fn after_port(outcome: PortOutcome) -> Result<Step, GuestFault> {
        match outcome {
            PortOutcome::Nothing => Ok(Step::NEXT),
            PortOutcome::ConsoleOutput => Ok(Step::Next(Then::Poll)),
            PortOutcome::Transmit(nic) => Ok(Step::Next(Then::Transmit(nic))),
            PortOutcome::Again => Ok(Step::Same(Then::Leave)),
            PortOutcome::PowerOff => Err(GuestFault::Stop(StopReason::PowerOff)),
            PortOutcome::Reset => Err(GuestFault::Stop(StopReason::Reset)),
        }
    }

    /// One iteration of INS or OUTS; a REP prefix exits again until its count is used up
    /// (Intel SDM vol. 3C, "Information for VM Exits Due to Instruction Execution").
    fn string_io<C: Cpu, D: DeviceAccess>(
        &mut self,
        cpu: &mut C,
        gprs: &mut Gprs,
        devices: &mut D,
        access: IoAccess,
        now: u64,
    ) -> Result<Step, GuestFault> {
        const RFLAGS_DF: u64 = 1 << 10;
        // Address size: bits 9:7 of the instruction information, 0 for 16, 1 for 32, 2 for 64 bits.
        let mask = match (cpu.read(field::EXIT_INSTRUCTION_INFO) >> 7) & 7 {
            0 => 0xffff,
            1 => 0xffff_ffff,
            _ => u64::MAX,
        };
        // A 32-bit result clears the upper half, a 16-bit one leaves the rest alone.
        let kept = |old: u64| if mask == 0xffff { old & !mask } else { 0 };
        let count = gprs.get(GprIndex::RCX);
        if access.repeat && count & mask == 0 {
            return Ok(Step::NEXT);
        }
        let at = Gva(cpu.read(field::GUEST_LINEAR_ADDRESS).0);
        let size = usize::from(access.size);
        let mut bytes = [0; 4];
        let outcome = if access.input {
            // A byte that a device gave is gone: fault before taking it.
            if let Err(fault) = linear::probe_write(cpu, at, size) {
                return self.page_fault(cpu, fault);
            }
            let (value, outcome) = Self::read_port(cpu, devices, access, now);
            bytes = value.to_le_bytes();
            if let Err(fault) = linear::write(cpu, at, bytes.get(..size).unwrap_or_default()) {
                return self.page_fault(cpu, fault);
            }
            outcome
        } else {
            if let Err(fault) = linear::read(cpu, at, bytes.get_mut(..size).unwrap_or_default()) {
                return self.page_fault(cpu, fault);
            }
            Self::write_port(cpu, devices, access, u32::from_le_bytes(bytes), now)
        };
        if outcome == PortOutcome::Again {
            return Self::after_port(outcome);
        }
        let index = if access.input { RDI } else { RSI };
        let step = if cpu.read(field::GUEST_RFLAGS).0 & RFLAGS_DF != 0 {
            (access.size as u64).wrapping_neg()
        } else {
            access.size as u64
        };
        let moved = gprs.get(index);
        gprs.set(index, kept(moved) | (moved.wrapping_add(step) & mask));
        let finished = Self::after_port(outcome)?;
        if access.repeat {
            let left = count.wrapping_sub(1) & mask;
            gprs.set(GprIndex::RCX, kept(count) | left);
            if left != 0 {
                event::advance_by(cpu, 0);
                return Ok(Step::SAME);
            }
        }
        Ok(finished)
    }

    /// The guest's own tables do not map what its instruction names: that is its page fault.
    pub(super) fn page_fault<C: Cpu>(
        &mut self,
        cpu: &mut C,
        fault: linear::LinearFault,
    ) -> Result<Step, GuestFault> {
        match fault {
            linear::LinearFault::Page { at, code } => {
                event::inject_page_fault(cpu, at.0, code);
                Ok(Step::SAME)
            }
            linear::LinearFault::NotCanonical => Err(GuestFault::GP0),
            linear::LinearFault::NoMemory(gpa, write) => {
                Err(GuestFault::Stop(StopReason::OutsideMemory { gpa, write }))
            }
        }
    }
}
