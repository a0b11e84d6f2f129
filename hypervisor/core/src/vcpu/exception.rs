//! Exceptions that exit: the host's own that reach us through the guest, and those that are put back into it.

use super::step::{Step, Then};
use super::{Cpu, Vcpu, event};
use crate::vmx::exit::Interruption;
use crate::vmx::field;

impl Vcpu {
    /// Host exceptions that reached us through the guest; `None` for a machine check.
    pub(super) fn exception<C: Cpu>(&mut self, cpu: &mut C, event: Interruption) -> Option<Step> {
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
        if matches!(event.vector(), 11..=13) {
            self.iret_exception(cpu, event);
            return Some(Step::SAME);
        }
        self.put_back_interrupted(cpu);
        match event.vector() {
            DEBUG => {
                // Delivery by the CPU would have done this (Intel SDM vol. 3C, "Basic VM-Exit Information").
                let cause = cpu.read(field::EXIT_QUALIFICATION).0;
                if self.is_step_in_gate(cpu, cause) {
                    return Some(Step::SAME);
                }
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
}
