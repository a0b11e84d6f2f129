//! What a guest's mistake becomes: an exception in the guest, or the end of that VM.
//!
//! Every decision that can refuse a guest returns a [`GuestFault`]; the exit dispatcher injects it or stops
//! the VM. Nothing a guest does is a panic of the hypervisor.

use core::fmt;

use crate::addr::Gpa;

/// The refusal of one guest action.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuestFault {
    /// Inject #GP with this error code.
    Gp(u32),
    /// Inject #UD.
    Ud,
    /// Stop the VM and report why.
    Stop(StopReason),
}

impl GuestFault {
    /// #GP(0), what a refused MSR, port or control register access raises.
    pub const GP0: Self = Self::Gp(0);
}

impl fmt::Display for GuestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gp(code) => write!(
                f,
                "general protection fault, error code {code:#x}, goes to the guest"
            ),
            Self::Ud => f.write_str("invalid opcode exception goes to the guest"),
            Self::Stop(reason) => write!(f, "the VM is stopped: {reason}"),
        }
    }
}

impl core::error::Error for GuestFault {}

/// Why a VM cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopReason {
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// An exception while delivering a double fault.
    TripleFault,
    /// The guest touched an address at which it has neither memory nor a device.
    OutsideMemory {
        /// Where it reached.
        gpa: Gpa,
        /// Whether it wrote.
        write: bool,
    },
    /// The guest fetched an instruction from where it has no memory.
    ExecutedOutsideMemory {
        /// Where from.
        gpa: Gpa,
    },
    /// The guest used an instruction on a device register that the decoder does not know.
    UndecodedAccess {
        /// The device register.
        gpa: Gpa,
    },
    /// A sealed page of the VM is not what was sealed there.
    Integrity {
        /// Where the VM has it.
        gpa: Gpa,
    },
    /// A page of the VM's encrypted memory could not be brought back, or another not be sealed to make room for it.
    PageLost {
        /// Where the VM has it.
        gpa: Gpa,
    },
    /// User code uses a page that is, or was, one of the kernel's page tables: the split cannot keep apart what is both.
    SplitConflict {
        /// Where the VM has it.
        gpa: Gpa,
    },
    /// The kernel/user split cannot follow the guest's kernel.
    SplitLost,
    /// The guest ran user code outside 64-bit mode's paging, which the split cannot follow.
    SplitOutsideLongMode,
    /// The guest halted with interrupts off: nothing can wake it.
    HaltedForGood,
    /// The guest disabled its local APIC while the processor virtualises it.
    ApicDisabled,
    /// The guest switched tasks by hardware.
    TaskSwitch,
    /// The processor refused to enter the guest; the VM-instruction error.
    EntryRefused(u32),
    /// VM entry failed on the guest's state, or an exit arrived that no enabled control can cause.
    UnexpectedExit(u32),
}

impl StopReason {
    /// Its name in events: one word that does not change between releases.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PowerOff => "power-off",
            Self::Reset => "reset",
            Self::TripleFault => "triple-fault",
            Self::OutsideMemory { .. } => "outside-memory",
            Self::ExecutedOutsideMemory { .. } => "executed-outside-memory",
            Self::UndecodedAccess { .. } => "undecoded-access",
            Self::Integrity { .. } => "integrity",
            Self::PageLost { .. } => "page-lost",
            Self::SplitConflict { .. } => "split-conflict",
            Self::SplitLost => "split-lost",
            Self::SplitOutsideLongMode => "split-outside-long-mode",
            Self::HaltedForGood => "halted-for-good",
            Self::TaskSwitch => "task-switch",
            Self::EntryRefused(_) => "entry-refused",
            Self::ApicDisabled => "apic-disabled",
            Self::UnexpectedExit(_) => "unexpected-exit",
        }
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("powered off by the guest"),
            Self::Reset => f.write_str("reset by the guest"),
            Self::TripleFault => {
                f.write_str("triple fault: the guest has no working exception handlers")
            }
            Self::OutsideMemory { gpa, write } => {
                let what = if *write { "wrote" } else { "read" };
                write!(
                    f,
                    "the guest {what} {gpa}, where it has neither memory nor a device"
                )
            }
            Self::ExecutedOutsideMemory { gpa } => {
                write!(
                    f,
                    "the guest executed {gpa}, where it has neither memory nor a device"
                )
            }
            Self::UndecodedAccess { gpa } => {
                write!(
                    f,
                    "the guest used an unsupported instruction on the device register at {gpa}; use a plain MOV"
                )
            }
            Self::Integrity { gpa } => write!(
                f,
                "integrity violated: the sealed page at {gpa} is not what was sealed there; its frame was written to, or memory fails"
            ),
            Self::PageLost { gpa } => {
                write!(f, "the page at {gpa} could not be brought back; the log says why")
            }
            Self::SplitConflict { gpa } => write!(
                f,
                "user code uses the page at {gpa}, which is one of the kernel's page tables; `split` cannot keep apart what is both"
            ),
            Self::SplitLost => {
                f.write_str("the kernel cannot be kept from its user code; the log says why")
            }
            Self::SplitOutsideLongMode => f.write_str(
                "user code runs outside 64-bit mode, where `split` cannot keep the kernel from it; leave `split` out for this guest",
            ),
            Self::HaltedForGood => {
                f.write_str("the guest halted with interrupts off, so that nothing can wake it")
            }
            Self::ApicDisabled => f.write_str(
                "the guest disabled its local APIC, which the processor's APIC virtualisation cannot follow; \
                 leave it in x2APIC mode",
            ),
            Self::TaskSwitch => {
                f.write_str("the guest used a hardware task switch, which is not emulated")
            }
            Self::EntryRefused(error) => {
                write!(f, "the processor refused to enter the guest, VM-instruction error {error}")
            }
            Self::UnexpectedExit(reason) => {
                write!(f, "exit reason {reason} has no cause in this VM's controls")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_reasons_say_where() {
        let fault = GuestFault::Stop(StopReason::OutsideMemory {
            gpa: Gpa(0xdead_0000),
            write: true,
        });
        assert_eq!(
            fault.to_string(),
            "the VM is stopped: the guest wrote 0xdead0000, where it has neither memory nor a device"
        );
        assert_eq!(GuestFault::GP0, GuestFault::Gp(0));
    }
}
