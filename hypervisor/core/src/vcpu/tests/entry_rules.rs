//! The rules of VM entry that the dispatcher can break, as the oracle of every test.

use super::machine::*;
use crate::vmx::exit::Interruption;
use crate::vmx::field;

impl Machine {
    /// Which rule of VM entry the VMCS breaks, of those that the dispatcher can break (Intel SDM vol. 3C,
    /// "Checks on VMX Controls and Host-State Area" and "Checking and Loading Guest State").
    pub fn refusal(&self) -> Option<&'static str> {
        let cpu = &self.cpu;
        let flags = cpu.read(field::GUEST_RFLAGS).0;
        let blocking = cpu.read(field::GUEST_INTERRUPTIBILITY);
        let shadow = blocking & (BLOCKED_BY_STI | BLOCKED_BY_MOV_SS) != 0;
        let halted = cpu.read(field::GUEST_ACTIVITY) != 0;
        if let Some(event) = self.injected() {
            let refused = self.refused_event(event, flags, blocking, halted);
            if refused.is_some() {
                return refused;
            }
        }
        if halted && shadow {
            return Some("halted while blocking by STI or MOV SS");
        }
        if shadow || halted {
            let debugctl_btf = cpu.read(field::GUEST_DEBUGCTL) & 2 != 0;
            let stepping = flags & RFLAGS_TF != 0 && !debugctl_btf;
            let pending = cpu.read(field::GUEST_PENDING_DEBUG).0 & DEBUG_BS != 0;
            if stepping != pending {
                return Some("single step without its pending debug exception, or the reverse");
            }
        }
        let threshold = cpu.read(field::TPR_THRESHOLD);
        if !self.apicv && threshold > u32::from(self.vcpu.apic.task_priority() >> 4) {
            return Some("TPR threshold above the TPR");
        }
        let long_code = cpu.read(field::GUEST_CS_ACCESS) & 1 << 13 != 0;
        let long_mode = cpu.read(field::ENTRY_CONTROLS) & 1 << 9 != 0;
        if !(long_code && long_mode) && self.rip() >> 32 != 0 {
            return Some("RIP beyond 32 bits outside 64-bit mode");
        }
        None
    }

    fn refused_event(
        &self,
        event: Interruption,
        flags: u64,
        blocking: u32,
        halted: bool,
    ) -> Option<&'static str> {
        let protected = self.cpu.read(field::GUEST_CR0).0 & 1 != 0;
        let shadow = blocking & (BLOCKED_BY_STI | BLOCKED_BY_MOV_SS) != 0;
        let vector = event.vector();
        let coded = matches!(vector, 8 | 10..=14 | 17) && protected && event.kind() == 3;
        if event.0 & 0x7fff_f000 != 0 {
            return Some("reserved bits in the event");
        }
        if event.has_error_code() != coded {
            return Some("an error code where the exception has none, or none where it has one");
        }
        match event.kind() {
            0 if flags & RFLAGS_IF == 0 => Some("an interrupt with IF clear"),
            0 | Interruption::NMI if shadow => Some("an interrupt in an interrupt shadow"),
            Interruption::NMI if vector != 2 => Some("an NMI that is not vector 2"),
            Interruption::NMI if blocking & BLOCKED_BY_NMI != 0 => Some("an NMI while blocked"),
            Interruption::HARDWARE_EXCEPTION if vector > 31 => Some("an exception beyond 31"),
            Interruption::HARDWARE_EXCEPTION if halted && !matches!(vector, 1 | 18) => {
                Some("an exception into HLT")
            }
            4..=6 if halted => Some("a software event into HLT"),
            4..=6 if !(1..=15).contains(&self.cpu.read(field::ENTRY_INSTRUCTION_LENGTH)) => {
                Some("a software event without its length")
            }
            1 | 7 => Some("a reserved event type"),
            _ => None,
        }
    }
}
