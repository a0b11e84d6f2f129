//! Instructions that exit because their answer is the hypervisor's: CPUID, the MSR pair, XSETBV, VMCALL.

use super::registers::{self, GprIndex, Gprs};
use super::{Cpu, DeviceAccess, Step, Vcpu, control_register};
use crate::addr::Gva;
use crate::apic::{ApicEffect, Reg, TSC_DEADLINE_MSR};
use crate::cpuid::{CpuidDynamic, CpuidResult};
use crate::fault::{GuestFault, StopReason};
use crate::hypercall::{self, Answer};
use crate::msr::{self, MsrEffect};
use crate::vmx::field;

/// Puts a CPUID answer into the registers.
#[inline(always)]
fn answer_cpuid(gprs: &mut Gprs, answer: &CpuidResult) {
    registers::set_low(gprs, GprIndex::RAX, answer.eax);
    registers::set_low(gprs, GprIndex::RBX, answer.ebx);
    registers::set_low(gprs, GprIndex::RCX, answer.ecx);
    registers::set_low(gprs, GprIndex::RDX, answer.edx);
}

impl Vcpu {
    #[inline(always)]
    pub(super) fn cpuid_exit<C: Cpu>(
        &mut self,
        cpu: &C,
        gprs: &mut Gprs,
    ) -> Result<Step, GuestFault> {
        let dynamic = CpuidDynamic {
            cr4: cpu.read(field::GUEST_CR4).0,
            xcr0: self.xcr0,
        };
        let leaf = gprs.get(GprIndex::RAX) as u32;
        let subleaf = gprs.get(GprIndex::RCX) as u32;
        answer_cpuid(gprs, &self.cpuid.lookup(leaf, subleaf, &dynamic));
        Ok(Step::NEXT)
    }

    /// CPUID where neither subleaf nor guest state matters; false where they do.
    #[inline(always)]
    pub(super) fn plain_cpuid(&self, gprs: &mut Gprs) -> bool {
        match self.cpuid.fixed(gprs.get(GprIndex::RAX) as u32) {
            Some(answer) => {
                answer_cpuid(gprs, answer);
                true
            }
            None => false,
        }
    }

    /// RDMSR of a register whose value is only stored; false for the others.
    #[inline(always)]
    pub(super) fn plain_rdmsr(&self, gprs: &mut Gprs) -> bool {
        match msr::read_stored(gprs.get(GprIndex::RCX) as u32, &self.msrs) {
            Some(value) => {
                registers::set_low(gprs, GprIndex::RAX, value as u32);
                registers::set_low(gprs, GprIndex::RDX, (value >> 32) as u32);
                true
            }
            None => false,
        }
    }

    #[inline(always)]
    pub(super) fn rdmsr<C: Cpu>(
        &mut self,
        _cpu: &C,
        gprs: &mut Gprs,
        now: u64,
    ) -> Result<Step, GuestFault> {
        let number = gprs.get(GprIndex::RCX) as u32;
        let value = msr::read(number, &self.msrs, &self.apic, self.guest_tsc(now))
            .or_else(|refused| self.read_entry_point(number, refused))?;
        registers::set_low(gprs, GprIndex::RAX, value as u32);
        registers::set_low(gprs, GprIndex::RDX, (value >> 32) as u32);
        Ok(Step::NEXT)
    }

    #[inline(always)]
    pub(super) fn wrmsr<C: Cpu, D: DeviceAccess>(
        &mut self,
        cpu: &mut C,
        gprs: &Gprs,
        devices: &mut D,
        now: u64,
    ) -> Result<Step, GuestFault> {
        let number = gprs.get(GprIndex::RCX) as u32;
        let value = registers::edx_eax(gprs);
        let guest_now = self.guest_tsc(now);
        let written = match msr::write(number, value, &mut self.msrs, &mut self.apic, guest_now) {
            Ok(effect) => effect,
            Err(refused) => return self.write_entry_point(cpu, number, value, refused),
        };
        match written {
            MsrEffect::None => {}
            // The MSR bitmap keeps the register page readable, where a disabled APIC has no registers.
            MsrEffect::Apic(ApicEffect::Disabled) if self.hardware_delivery => {
                return Err(GuestFault::Stop(StopReason::ApicDisabled));
            }
            MsrEffect::Apic(effect) => self.apply_effect(cpu, devices, effect, now),
            MsrEffect::TscStepped(delta) => {
                self.tsc_offset = self.tsc_offset.wrapping_add(delta);
                cpu.write(field::TSC_OFFSET, self.tsc_offset);
                self.rearm(now);
            }
            MsrEffect::SetPat(pat) => cpu.write(field::GUEST_PAT, pat),
            MsrEffect::SetEfer(value) => control_register::write_efer(cpu, value)?,
        }
        Ok(Step::NEXT)
    }

    /// WRMSR that arms the TSC deadline and does nothing else; false, and nothing done, for the others.
    #[inline(always)]
    pub(super) fn plain_wrmsr(&mut self, gprs: &Gprs, now: u64) -> bool {
        let guest_now = self.guest_tsc(now);
        let armed = gprs.get(GprIndex::RCX) as u32 == TSC_DEADLINE_MSR
            && self
                .apic
                .arm_tsc_deadline(registers::edx_eax(gprs), guest_now);
        if armed {
            self.rearm(now);
        }
        armed
    }

    pub(super) fn xsetbv<C: Cpu>(&mut self, cpu: &mut C, gprs: &Gprs) -> Result<Step, GuestFault> {
        if gprs.get(GprIndex::RCX) as u32 != 0 {
            return Err(GuestFault::GP0);
        }
        let value = self.cpuid.validate_xcr0(registers::edx_eax(gprs))?;
        self.xcr0 = value.bits();
        cpu.set_xcr0(self.xcr0);
        Ok(Step::NEXT)
    }

    /// A VMCALL of a kernel's, whose answer needs nothing but the registers; false, and nothing done, for others.
    #[inline(always)]
    pub(super) fn plain_vmcall<C: Cpu>(cpu: &C, gprs: &mut Gprs) -> bool {
        if Self::privilege_level(cpu) != 0 {
            return false;
        }
        let result = hypercall::kernel_call(gprs.get(GprIndex::RAX));
        gprs.set(GprIndex::RAX, result);
        true
    }

    #[cold]
    pub(super) fn vmcall<C: Cpu>(&mut self, cpu: &mut C, gprs: &mut Gprs) {
        let cpl = Self::privilege_level(cpu);
        let result = match hypercall::call(gprs.get(GprIndex::RAX), cpl) {
            Answer::Known(result) => result,
            Answer::OfVm(call) => {
                let (at, count) = (gprs.get(GprIndex::RDI), gprs.get(GprIndex::RSI));
                match self.private_pages(cpu, call, Gva(at), count) {
                    Ok(()) => 0,
                    Err(error) => error.code(),
                }
            }
        };
        gprs.set(GprIndex::RAX, result);
    }

    /// That of SS is the processor's (Intel SDM vol. 3C, "Guest Register State").
    #[inline(always)]
    fn privilege_level<C: Cpu>(cpu: &C) -> u8 {
        ((cpu.read(field::GUEST_SS_ACCESS) >> 5) & 3) as u8
    }

    /// A write to an APIC register that the CPU virtualised up to the page but not beyond.
    pub(super) fn apic_write<C: Cpu, D: DeviceAccess>(
        &mut self,
        cpu: &mut C,
        devices: &mut D,
        offset: u16,
        now: u64,
    ) -> Result<Step, GuestFault> {
        let register = Reg((offset >> 4) as u8);
        let value = u64::from(self.apic.page().get(register));
        let effect =
            self.apic
                .write_msr(0x800 + u32::from(register.0), value, self.guest_tsc(now))?;
        self.apply_effect(cpu, devices, effect, now);
        Ok(Step::SAME)
    }
}
