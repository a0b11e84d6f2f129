//! VT-d: what devices reach of memory, and which interrupts they raise.
//!
//! [`capability`] chooses what is used of a unit; [`mod@unit`] brings it up. A [`domain`] is what a VM's devices reach,
//! [`context`] puts devices into it, [`interrupt`] is what they can raise. What changes is told to units by the batch
//! ([`invalidate`], [`queue`], [`fallback`]), and what was taken away comes back only once they have forgotten it.
//! What devices were kept from is in [`fault`]; [`flood`] decides how much of that is told. The shell has the registers
//! ([`registers::UnitRegisters`]) and the memory ([`queue::QueueMemory`], [`crate::table::TableMemory`]).

pub mod capability;
pub mod context;
pub mod domain;
pub mod fallback;
pub mod fault;
pub mod flood;
pub mod interrupt;
pub mod invalidate;
mod pending;
pub mod queue;
pub mod reason;
pub mod registers;
pub mod second_level;
pub mod shape;
pub mod source;
#[cfg(test)]
mod tests;
pub mod unit;
