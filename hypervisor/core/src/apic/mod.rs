//! The guest's local APIC in x2APIC mode: priorities, pending and in-service interrupts, end of interrupt.
//!
//! [`LocalApic`] is one vCPU's; its registers live in a [`VirtualApicPage`] so that hardware APIC
//! virtualisation can take the page over. `registers` decodes MSR accesses, `timer` counts, [`icr`] decodes
//! interprocessor interrupts. The exit dispatcher carries out each [`ApicEffect`].
//!
//! The xAPIC memory window is not offered. The APIC starts in x2APIC mode, as firmware with more than 255
//! processors hands it over, and every transition to xAPIC mode is #GP: an end of interrupt through the window would
//! cost an EPT violation and an instruction decode, where the MSR costs a plain exit or none.
//! Linux keeps x2APIC without interrupt remapping only under a hypervisor it knows, see [`crate::cpuid`].

pub mod icr;
pub mod msi;
mod page;
mod registers;
mod timer;

pub use icr::{Delivery, Destination, IcrRequest};
pub use page::{Reg, VirtualApicPage};
pub use registers::{APIC_BASE_MSR, TSC_DEADLINE_MSR, X2APIC_FIRST_MSR, X2APIC_LAST_MSR};
pub use timer::TimerMode;

use icr::FIRST_LEGAL_VECTOR;
use timer::Timer;

bitflags::bitflags! {
    /// An entry of the local vector table.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Lvt: u32 {
        const VECTOR = 0xff;
        const DELIVERY = 0x700;
        const DELIVERY_STATUS = 1 << 12;
        const POLARITY = 1 << 13;
        const REMOTE_IRR = 1 << 14;
        const LEVEL = 1 << 15;
        const MASKED = 1 << 16;
        const TIMER_MODE = 3 << 17;
    }

    /// Causes in the error status register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Esr: u32 {
        const SEND_ILLEGAL_VECTOR = 1 << 5;
        const RECEIVE_ILLEGAL_VECTOR = 1 << 6;
    }

    /// The spurious-interrupt vector register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Svr: u32 {
        const VECTOR = 0xff;
        const SOFTWARE_ENABLE = 1 << 8;
        const FOCUS_DISABLE = 1 << 9;
    }

    /// `IA32_APIC_BASE` (Intel SDM vol. 3A, "Local APIC Status and Location").
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct ApicBase: u64 {
        const BOOTSTRAP = 1 << 8;
        const X2APIC = 1 << 10;
        const ENABLE = 1 << 11;
        const ADDRESS = 0x000f_ffff_ffff_f000;
    }
}

/// Version 0x14 with six LVT entries and no EOI-broadcast suppression.
const VERSION: u32 = 0x14 | 5 << 16;

/// How an interrupt is signalled; a level-triggered one tells its I/O APIC when it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// Once per edge.
    Edge,
    /// As long as the line is asserted.
    Level,
}

/// What the dispatcher has to do after an APIC register was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum ApicEffect {
    /// Nothing.
    None,
    /// Look at [`LocalApic::highest_pending`] again before the next entry.
    Recheck,
    /// Arm or disarm the host timer for [`LocalApic::next_deadline`].
    TimerChanged,
    /// Deliver this to other vCPUs (and to this one where the destination selects it).
    Ipi(IcrRequest),
    /// This level-triggered interrupt ended: tell the I/O APICs, then recheck.
    LevelEoi(u8),
    /// The APIC is off for good and lost all it held: recheck, and virtualise its registers no longer.
    Disabled,
}

/// One vCPU's local APIC.
#[derive(Clone, Debug)]
pub struct LocalApic {
    page: VirtualApicPage,
    base: ApicBase,
    id: u32,
    /// One bit for each IRR word that may be non-zero.
    irr_words: u32,
    /// One bit for each ISR word that may be non-zero.
    isr_words: u32,
    /// Errors since the guest last wrote the ESR.
    errors: Esr,
    timer: Timer,
}

impl LocalApic {
    /// The APIC with x2APIC identifier `id` as firmware leaves it: x2APIC mode, software-disabled.
    ///
    /// The crystal clock ticks once every `1 << crystal_shift` TSC ticks (see [`crate::cpuid::Crystal`]).
    #[must_use]
    pub fn new(id: u32, crystal_shift: u32) -> Self {
        let mut base = ApicBase::ENABLE
            | ApicBase::X2APIC
            | ApicBase::from_bits_retain(crate::platform::LAPIC_BASE.0);
        base.set(ApicBase::BOOTSTRAP, id == 0);
        let mut apic = Self {
            page: VirtualApicPage::new(),
            base,
            id,
            irr_words: 0,
            isr_words: 0,
            errors: Esr::empty(),
            timer: Timer::new(crystal_shift.min(8)),
        };
        apic.reset_registers();
        apic
    }

    /// INIT: registers as after reset, identifier and mode kept (Intel SDM vol. 3A, "x2APIC State Transitions").
    pub fn init(&mut self) {
        self.reset_registers();
    }

    fn reset_registers(&mut self) {
        self.page = VirtualApicPage::new();
        self.irr_words = 0;
        self.isr_words = 0;
        self.errors = Esr::empty();
        self.timer.reset();
        self.page.set(Reg::ID, self.id);
        self.page.set(Reg::LDR, icr::logical_id(self.id));
        self.page.set(Reg::VERSION, VERSION);
        self.page.set(Reg::SVR, Svr::VECTOR.bits());
        for lvt in registers::LVT_ENTRIES {
            self.page.set(lvt, Lvt::MASKED.bits());
        }
    }

    /// The x2APIC identifier.
    #[inline]
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// Whether this is the boot vCPU's.
    #[must_use]
    pub const fn is_bootstrap(&self) -> bool {
        self.base.contains(ApicBase::BOOTSTRAP)
    }

    /// The register page, for the VMCS's virtual-APIC address.
    #[must_use]
    pub const fn page(&self) -> &VirtualApicPage {
        &self.page
    }

    /// Raises `vector`; true where it is now pending. A software-disabled APIC drops it.
    pub fn raise(&mut self, vector: u8, trigger: Trigger) -> bool {
        if !self.is_software_enabled() {
            return false;
        }
        if vector < FIRST_LEGAL_VECTOR {
            self.record_error(Esr::RECEIVE_ILLEGAL_VECTOR);
            return false;
        }
        match trigger {
            Trigger::Edge => self.page.clear_bit(Reg::TMR, vector),
            Trigger::Level => {
                self.page.set_bit(Reg::TMR, vector);
                false
            }
        };
        self.request(vector);
        true
    }

    #[inline]
    fn request(&mut self, vector: u8) {
        self.page.set_bit(Reg::IRR, vector);
        self.irr_words |= 1 << (vector >> 5);
    }

    /// The pending interrupt that the guest's priorities let through, if any.
    #[inline]
    #[must_use]
    pub fn highest_pending(&self) -> Option<u8> {
        if self.irr_words == 0 {
            return None;
        }
        let vector = self.highest(Reg::IRR, self.irr_words)?;
        (vector >> 4 > self.processor_priority() >> 4).then_some(vector)
    }

    /// Moves `vector` from requested to in service: the CPU is about to deliver it.
    #[inline]
    pub fn accept(&mut self, vector: u8) {
        if self.page.clear_bit(Reg::IRR, vector) {
            self.irr_words &= !(1 << (vector >> 5));
        }
        self.page.set_bit(Reg::ISR, vector);
        self.isr_words |= 1 << (vector >> 5);
        self.publish_priority();
    }

    /// Takes [`accept`](Self::accept) back: `vector` was on its way into the guest and did not get there.
    /// Nothing where it is not in service.
    pub fn unaccept(&mut self, vector: u8) {
        if !self.page.bit(Reg::ISR, vector) {
            return;
        }
        if self.page.clear_bit(Reg::ISR, vector) {
            self.isr_words &= !(1 << (vector >> 5));
        }
        self.request(vector);
        self.publish_priority();
    }

    /// Ends the highest interrupt in service; its vector where that was level-triggered.
    #[inline]
    pub fn eoi(&mut self) -> Option<u8> {
        let vector = self.highest(Reg::ISR, self.isr_words)?;
        if self.page.clear_bit(Reg::ISR, vector) {
            self.isr_words &= !(1 << (vector >> 5));
        }
        self.publish_priority();
        self.page.bit(Reg::TMR, vector).then_some(vector)
    }

    /// Highest set vector of a group whose possibly non-zero words are `words`.
    #[inline]
    fn highest(&self, group: Reg, words: u32) -> Option<u8> {
        let word = words.checked_ilog2()? as u8;
        let bit = self.page.get(Reg(group.0 + word)).checked_ilog2()? as u8;
        Some(word << 5 | bit)
    }

    /// The task priority, CR8 times 16.
    #[inline]
    #[must_use]
    pub fn task_priority(&self) -> u8 {
        self.page.get(Reg::TPR) as u8
    }

    /// Sets the task priority (TPR, or CR8 times 16).
    #[inline]
    pub fn set_task_priority(&mut self, priority: u8) {
        self.page.set(Reg::TPR, u32::from(priority));
        self.publish_priority();
    }

    /// The processor priority (Intel SDM vol. 3A, "Task and Processor Priorities").
    #[inline]
    #[must_use]
    pub fn processor_priority(&self) -> u8 {
        let task = self.task_priority();
        let serving = self.highest(Reg::ISR, self.isr_words).unwrap_or(0) & 0xf0;
        if task & 0xf0 >= serving {
            task
        } else {
            serving
        }
    }

    #[inline]
    fn publish_priority(&mut self) {
        self.page
            .set(Reg::PPR, u32::from(self.processor_priority()));
    }

    /// The VMCS's TPR threshold: the class that TPR must fall below for the highest request to go through, or 0.
    #[inline]
    #[must_use]
    pub fn tpr_threshold(&self) -> u32 {
        match self.highest(Reg::IRR, self.irr_words) {
            Some(vector) if vector >> 4 <= self.task_priority() >> 4 => u32::from(vector >> 4),
            _ => 0,
        }
    }

    /// The highest vector requested and the highest in service, 0 for none: what the VMCS's guest interrupt
    /// status holds.
    #[must_use]
    pub fn requested_and_serving(&self) -> (u8, u8) {
        (
            self.highest(Reg::IRR, self.irr_words).unwrap_or(0),
            self.highest(Reg::ISR, self.isr_words).unwrap_or(0),
        )
    }

    /// Rebuilds the summaries after hardware APIC virtualisation worked on the page.
    pub fn resync(&mut self) {
        let summary = |group: Reg| {
            (0..8)
                .filter(|word| self.page.get(Reg(group.0 + word)) != 0)
                .fold(0, |words, word| words | 1 << word)
        };
        self.irr_words = summary(Reg::IRR);
        self.isr_words = summary(Reg::ISR);
    }

    /// Whether the APIC takes interrupts: enabled by `IA32_APIC_BASE` and by the spurious-vector register.
    #[inline]
    #[must_use]
    pub fn is_software_enabled(&self) -> bool {
        self.page.get(Reg::SVR) & Svr::SOFTWARE_ENABLE.bits() != 0
            && self.base.contains(ApicBase::ENABLE)
    }

    /// The guest TSC at which the timer next raises an interrupt, for the host timer.
    #[inline]
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        if Timer::is_audible(self.page.get(Reg::LVT_TIMER)) {
            self.timer.deadline()
        } else {
            None
        }
    }

    /// Runs the timer up to guest TSC `now`; true where it raised an interrupt.
    #[inline]
    pub fn on_time(&mut self, now: u64) -> bool {
        self.timer.expire(now) && self.deliver_local(Reg::LVT_TIMER)
    }

    /// The guest's TSC was moved by `delta` (wrapping): counting timers keep their distance.
    pub fn tsc_stepped(&mut self, delta: u64) {
        self.timer.tsc_stepped(delta);
    }

    /// Delivers the fixed interrupt of a local vector table entry; true where it is now pending.
    fn deliver_local(&mut self, entry: Reg) -> bool {
        let lvt = Lvt::from_bits_retain(self.page.get(entry));
        if lvt.contains(Lvt::MASKED) {
            return false;
        }
        self.raise(lvt.bits() as u8, Trigger::Edge)
    }

    /// Notes an error and, where it is new, raises the error interrupt.
    fn record_error(&mut self, error: Esr) {
        if self.errors.contains(error) {
            return;
        }
        self.errors |= error;
        let lvt = Lvt::from_bits_retain(self.page.get(Reg::LVT_ERROR));
        let vector = lvt.bits() as u8;
        if lvt.contains(Lvt::MASKED) {
            return;
        }
        // An illegal vector in the error entry itself must not report itself for ever.
        if vector < FIRST_LEGAL_VECTOR {
            self.errors |= Esr::RECEIVE_ILLEGAL_VECTOR;
        } else {
            self.page.clear_bit(Reg::TMR, vector);
            self.request(vector);
        }
    }
}

#[cfg(test)]
mod tests;
