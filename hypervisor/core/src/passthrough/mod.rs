//! Real functions of the machine in a VM: where the guest finds their memory, how their interrupts reach its vCPUs.
//!
//! | module | what it decides |
//! |---|---|
//! | [`mod@place`] | Where in the guest each base address is; what of it the guest reaches by itself, and what traps. |
//! | [`vectors`] | The MSI-X table that the guest sees in place of the device's. |
//! | [`message`] | What a guest may have its device send. |
//! | [`host`] | Which vector of which CPU stands for a device's interrupt; whose it is when one arrives. |
//! | [`mod@virtual_config`] | The configuration space that the guest sees in place of the function's. |
//! | [`registers`] | What is written to the real function. |
//! | [`reserved`] | Whether a VM can have a device that the firmware reserved memory for. |
//!
//! The function on the VM's bus is [`Passed`](crate::device::pci::Passed); what it needs of the machine is [`Hardware`],
//! which the shell implements. A guest reaches its device's memory where [`place()`] put it: moved elsewhere, or with
//! decoding off, the pages that trap reach nothing, while the others stay what they are, memory of that VM's device.
//! The real function decodes for as long as a VM has it: a guest that could switch that off could make the machine's
//! bus report errors. Ports are not passed through: a device says itself which it has, and nothing keeps that from being
//! another's, as the ledger does for memory.
//!
//! None of this was ever run on hardware: no machine at hand has both VT-x and VT-d.

pub mod host;
pub mod message;
pub mod place;
pub mod registers;
pub mod reserved;
pub mod vectors;
pub mod virtual_config;

pub use host::{Call, HostVectors, Routes};
pub use message::GuestMessage;
pub use place::{PlaceError, Places, check_apart, place};
pub use registers::Real;
pub use virtual_config::VirtualConfig;

use crate::addr::Hpa;
use crate::vtd::interrupt::message::Message;

/// How a real function may interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signalling {
    /// Not at all. Lines are never used.
    Off,
    /// By one message.
    Msi {
        /// Which.
        message: Message,
        /// It is held back, by a function that can.
        masked: bool,
    },
    /// By the messages of its table.
    MsiX {
        /// All are held back.
        masked: bool,
    },
}

/// The real function behind the one on a VM's bus, and its way to the VM.
pub trait Hardware: Send {
    /// Reads `size` bytes (1, 2, 4 or 8, aligned) of the function's memory, in pages that trap.
    fn read(&mut self, at: Hpa, size: u8) -> u64;
    /// Writes them.
    fn write(&mut self, at: Hpa, size: u8, value: u64);
    /// Lets the function read and write memory, as far as its domain goes, and send messages; or not.
    fn set_master(&mut self, on: bool);
    /// How the function interrupts from now on.
    fn set_signalling(&mut self, signalling: Signalling);
    /// Has interrupt `number` arrive as the guest's `message` from now on: what the function is to be programmed with
    /// for that. `None` where it cannot arrive. It stays routed, though the function may hold it back, until
    /// [`quiet`](Self::quiet).
    fn route(&mut self, number: u16, message: GuestMessage) -> Option<Message>;
    /// Begins to reset the function, or goes on; true when it is done. Nothing it was programmed with is left then.
    fn reset(&mut self) -> bool;
    /// No memory access, no interrupt, and no reset under way from here on. The remapping unit forgets the function's
    /// interrupts before their vectors are anybody else's: a function that writes to memory can send any message.
    fn quiet(&mut self);
}

#[cfg(test)]
mod tests;
