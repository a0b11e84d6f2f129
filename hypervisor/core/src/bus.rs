//! What a device model, or one vCPU, reaches of its VM: guest memory, and the VM's vCPUs.
//!
//! [`GuestRam`] copies; nothing refers to guest memory. [`Signals`] carries interrupts and the other things that one
//! part of a VM can do to a vCPU of the same VM. The shell implements both; tests do with plain vectors.

use crate::addr::Gpa;
use crate::apic::Trigger;

/// A VM's memory, copied in and out. The guest may change it between any two calls.
pub trait GuestRam {
    /// Fills `bytes` from `gpa` on; false where any of it is not memory of the VM, and then `bytes` holds anything.
    #[must_use]
    fn read(&mut self, gpa: Gpa, bytes: &mut [u8]) -> bool;
    /// Copies `bytes` to `gpa` on; false where any of it is not memory of the VM, and then a part may have been copied.
    #[must_use]
    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> bool;
}

/// Something that happens to a vCPU from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// An interrupt for its local APIC.
    Interrupt {
        /// The vector, as the guest chose it.
        vector: u8,
        /// How it is signalled.
        trigger: Trigger,
    },
    /// A non-maskable interrupt.
    Nmi,
    /// INIT: back to waiting for a start-up interrupt.
    Init,
    /// Start-up interrupt: begin at this 4 KiB page, if waiting for it.
    Startup(u8),
}

/// The vCPUs of one VM, which count from 0; a vCPU's x2APIC identifier is its number.
pub trait Signals {
    /// How many there are.
    fn vcpus(&self) -> u32;
    /// Signals vCPU `to`; one that does not exist is nobody.
    fn signal(&mut self, to: u32, signal: Signal);
}

/// All that a device model may reach.
pub trait Bus: GuestRam + Signals {}

impl<T: GuestRam + Signals> Bus for T {}
