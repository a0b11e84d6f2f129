//! Decoding of the APIC's MSRs: x2APIC registers, `IA32_TSC_DEADLINE` and `IA32_APIC_BASE`.
//!
//! Reserved bits, read-only and absent registers are #GP (Intel SDM vol. 3A, "x2APIC Register Address Space" and
//! "Reserved Bit Checking").

use super::icr::{self, Delivery, Destination, IcrRequest, IcrWrite};
use super::page::Reg;
use super::timer::{Timer, TimerMode};
use super::{ApicBase, ApicEffect, Esr, LocalApic, Lvt, Svr, Trigger};
use crate::fault::GuestFault;

/// `IA32_APIC_BASE`.
pub const APIC_BASE_MSR: u32 = 0x1b;
/// `IA32_TSC_DEADLINE`.
pub const TSC_DEADLINE_MSR: u32 = 0x6e0;
/// First MSR of the x2APIC range.
pub const X2APIC_FIRST_MSR: u32 = 0x800;
/// Last MSR of the x2APIC range.
pub const X2APIC_LAST_MSR: u32 = 0x8ff;

/// The local vector table's entries; the CMCI entry is absent because machine checks are hidden.
pub(super) const LVT_ENTRIES: [Reg; 6] = [
    Reg::LVT_TIMER,
    Reg::LVT_THERMAL,
    Reg::LVT_PERFORMANCE,
    Reg::LVT_LINT0,
    Reg::LVT_LINT1,
    Reg::LVT_ERROR,
];

impl LocalApic {
    /// Reads an APIC MSR at guest TSC `now`.
    ///
    /// # Errors
    /// #GP for MSRs that are absent, write-only or out of the current mode.
    #[inline]
    pub fn read_msr(&self, msr: u32, now: u64) -> Result<u64, GuestFault> {
        match msr {
            TSC_DEADLINE_MSR => Ok(self.timer.tsc_deadline()),
            X2APIC_FIRST_MSR..=X2APIC_LAST_MSR => self.read_register(Reg(msr as u8), now),
            APIC_BASE_MSR => Ok(self.base.bits()),
            _ => Err(GuestFault::GP0),
        }
    }

    /// Writes an APIC MSR at guest TSC `now`.
    ///
    /// # Errors
    /// #GP for MSRs that are absent or read-only, for reserved bits, and for forbidden mode changes.
    #[inline]
    pub fn write_msr(&mut self, msr: u32, value: u64, now: u64) -> Result<ApicEffect, GuestFault> {
        match msr {
            TSC_DEADLINE_MSR => Ok(self.write_tsc_deadline(value, now)),
            X2APIC_FIRST_MSR..=X2APIC_LAST_MSR => self.write_register(Reg(msr as u8), value, now),
            APIC_BASE_MSR => self.write_base(value),
            _ => Err(GuestFault::GP0),
        }
    }

    /// Writes `IA32_TSC_DEADLINE`: a deadline already reached raises the interrupt at once.
    #[inline]
    pub fn write_tsc_deadline(&mut self, value: u64, now: u64) -> ApicEffect {
        self.timer.set_tsc_deadline(value);
        if self.on_time(now) {
            ApicEffect::Recheck
        } else {
            ApicEffect::TimerChanged
        }
    }

    /// Writes an `IA32_TSC_DEADLINE` that guest TSC `now` has not reached, which only arms the timer; false, and nothing done,
    /// where [`write_tsc_deadline`](Self::write_tsc_deadline) would do anything else.
    #[inline(always)]
    #[must_use]
    pub fn arm_tsc_deadline(&mut self, value: u64, now: u64) -> bool {
        self.timer.arm_tsc_deadline(value, now)
    }

    fn read_register(&self, reg: Reg, now: u64) -> Result<u64, GuestFault> {
        if !self.base.contains(ApicBase::X2APIC) {
            return Err(GuestFault::GP0);
        }
        match reg {
            Reg::CURRENT_COUNT => Ok(u64::from(self.timer.current(now))),
            Reg::PPR => Ok(u64::from(self.processor_priority())),
            Reg::ICR => {
                Ok(u64::from(self.page.get(Reg::ICR))
                    | u64::from(self.page.get(Reg::ICR_HIGH)) << 32)
            }
            _ if is_readable(reg) => Ok(u64::from(self.page.get(reg))),
            _ => Err(GuestFault::GP0),
        }
    }

    fn write_register(&mut self, reg: Reg, value: u64, now: u64) -> Result<ApicEffect, GuestFault> {
        if !self.base.contains(ApicBase::X2APIC) {
            return Err(GuestFault::GP0);
        }
        if reg == Reg::ICR {
            return self.write_icr(value);
        }
        let value = u32::try_from(value).map_err(|_| GuestFault::GP0)?;
        match reg {
            Reg::EOI if value == 0 => {
                Ok(self.eoi().map_or(ApicEffect::Recheck, ApicEffect::LevelEoi))
            }
            Reg::TPR => {
                self.set_task_priority(u8::try_from(value).map_err(|_| GuestFault::GP0)?);
                Ok(ApicEffect::Recheck)
            }
            Reg::SELF_IPI => {
                let vector = u8::try_from(value).map_err(|_| GuestFault::GP0)?;
                Ok(self.send_to_self(vector))
            }
            Reg::SVR => self.write_svr(value),
            Reg::ESR if value == 0 => {
                self.page.set(Reg::ESR, self.errors.bits());
                self.errors = Esr::empty();
                Ok(ApicEffect::None)
            }
            Reg::LVT_TIMER => self.write_timer_lvt(value, now),
            Reg::LVT_THERMAL | Reg::LVT_PERFORMANCE => {
                self.write_lvt(reg, value, Lvt::VECTOR | Lvt::DELIVERY | Lvt::MASKED)
            }
            Reg::LVT_LINT0 | Reg::LVT_LINT1 => self.write_lvt(
                reg,
                value,
                Lvt::VECTOR | Lvt::DELIVERY | Lvt::POLARITY | Lvt::LEVEL | Lvt::MASKED,
            ),
            Reg::LVT_ERROR => self.write_lvt(reg, value, Lvt::VECTOR | Lvt::MASKED),
            Reg::INITIAL_COUNT => Ok(self.write_initial_count(value, now)),
            Reg::DIVIDE if value & !0b1011 == 0 => {
                self.page.set(Reg::DIVIDE, value);
                self.timer.set_divide(value, now);
                Ok(ApicEffect::TimerChanged)
            }
            _ => Err(GuestFault::GP0),
        }
    }

    fn write_svr(&mut self, value: u32) -> Result<ApicEffect, GuestFault> {
        let svr = Svr::from_bits(value).ok_or(GuestFault::GP0)?;
        self.page.set(Reg::SVR, svr.bits());
        if !svr.contains(Svr::SOFTWARE_ENABLE) {
            // Intel SDM vol. 3A, "Local APIC State After It Has Been Software Disabled".
            for entry in LVT_ENTRIES {
                self.page
                    .set(entry, self.page.get(entry) | Lvt::MASKED.bits());
            }
        }
        Ok(ApicEffect::TimerChanged)
    }

    fn write_lvt(
        &mut self,
        entry: Reg,
        value: u32,
        writable: Lvt,
    ) -> Result<ApicEffect, GuestFault> {
        self.store_lvt(entry, value, writable)?;
        Ok(ApicEffect::None)
    }

    fn write_timer_lvt(&mut self, value: u32, now: u64) -> Result<ApicEffect, GuestFault> {
        let mode = TimerMode::from_lvt(value).ok_or(GuestFault::GP0)?;
        // What expired while the entry was masked is lost, not saved up for the unmasking.
        if !Timer::is_audible(self.page.get(Reg::LVT_TIMER)) {
            self.timer.expire(now);
        }
        self.store_lvt(
            Reg::LVT_TIMER,
            value,
            Lvt::VECTOR | Lvt::MASKED | Lvt::TIMER_MODE,
        )?;
        self.timer.set_mode(mode);
        if mode == TimerMode::TscDeadline {
            self.page.set(Reg::INITIAL_COUNT, 0);
        }
        Ok(ApicEffect::TimerChanged)
    }

    /// Status bits are read-only and ignored; what else is not writable is reserved.
    fn store_lvt(&mut self, entry: Reg, value: u32, writable: Lvt) -> Result<(), GuestFault> {
        let read_only = Lvt::DELIVERY_STATUS | Lvt::REMOTE_IRR;
        if value & !(writable | read_only).bits() != 0 {
            return Err(GuestFault::GP0);
        }
        let mut stored = value & writable.bits();
        if !self.is_software_enabled() {
            stored |= Lvt::MASKED.bits();
        }
        self.page.set(entry, stored);
        Ok(())
    }

    fn write_initial_count(&mut self, count: u32, now: u64) -> ApicEffect {
        if self.timer.set_initial(count, now) {
            self.page.set(Reg::INITIAL_COUNT, count);
        }
        ApicEffect::TimerChanged
    }

    fn write_icr(&mut self, value: u64) -> Result<ApicEffect, GuestFault> {
        let decoded = icr::decode(value, self.id);
        if decoded == IcrWrite::Reserved {
            return Err(GuestFault::GP0);
        }
        self.page.set(Reg::ICR, value as u32 & !(1 << 12));
        self.page.set(Reg::ICR_HIGH, (value >> 32) as u32);
        let IcrWrite::Send(request) = decoded else {
            if decoded == IcrWrite::IllegalVector {
                self.record_error(Esr::SEND_ILLEGAL_VECTOR);
            }
            return Ok(ApicEffect::Recheck);
        };
        Ok(match request {
            IcrRequest {
                delivery: Delivery::Fixed(vector) | Delivery::LowestPriority(vector),
                destination: Destination::Physical(id),
            } if id == self.id => self.send_to_self(vector),
            _ => ApicEffect::Ipi(request),
        })
    }

    fn send_to_self(&mut self, vector: u8) -> ApicEffect {
        if vector < icr::FIRST_LEGAL_VECTOR {
            self.record_error(Esr::SEND_ILLEGAL_VECTOR);
        } else {
            self.raise(vector, Trigger::Edge);
        }
        ApicEffect::Recheck
    }

    /// Mode changes of "x2APIC State Transitions"; those into xAPIC mode are refused, so a disabled APIC stays so.
    fn write_base(&mut self, value: u64) -> Result<ApicEffect, GuestFault> {
        let mut wanted = ApicBase::from_bits(value).ok_or(GuestFault::GP0)?;
        wanted.set(ApicBase::BOOTSTRAP, self.base.contains(ApicBase::BOOTSTRAP));
        let mode = ApicBase::ENABLE | ApicBase::X2APIC;
        let (from, to) = (self.base & mode, wanted & mode);
        if to == from {
            self.base = wanted;
            return Ok(ApicEffect::None);
        }
        if from == mode && to.is_empty() {
            self.base = wanted;
            self.reset_registers();
            return Ok(ApicEffect::Disabled);
        }
        Err(GuestFault::GP0)
    }
}

fn is_readable(reg: Reg) -> bool {
    // EOI, ICR's high half and SELF IPI are write-only or absent; DFR, RRD and APR do not exist in x2APIC mode.
    matches!(
        reg,
        Reg::ID
            | Reg::VERSION
            | Reg::TPR
            | Reg::LDR
            | Reg::SVR
            | Reg::ESR
            | Reg::LVT_TIMER
            | Reg::LVT_THERMAL
            | Reg::LVT_PERFORMANCE
            | Reg::LVT_LINT0
            | Reg::LVT_LINT1
            | Reg::LVT_ERROR
            | Reg::INITIAL_COUNT
            | Reg::DIVIDE
    ) || (Reg::ISR.0..Reg::IRR.0 + 8).contains(&reg.0)
}
