//! What comes of an exit: for the instruction that caused it ([`Step`]), and for the shell ([`Action`]).

#[cfg(doc)]
use super::Vcpu;
use crate::fault::StopReason;

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

/// What the shell does after an instruction that did not end the VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Then {
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
pub(super) enum Step {
    /// It is done: skip it.
    Next(Then),
    /// It waits, done, for an interrupt.
    Halt,
    /// It runs again, there was none, or it was skipped already.
    Same(Then),
}

impl Step {
    pub(super) const NEXT: Self = Self::Next(Then::Resume);
    pub(super) const SAME: Self = Self::Same(Then::Resume);
}
