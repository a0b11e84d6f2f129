//! Sealing VMs' memory: the effects. Which page, when and in which order is `bulkhead_core::secmem`'s.
//!
//! [`hooks`] are the moments at which the rest of the hypervisor calls; each is named for what happens to the VM. [`sealed`] is what an
//! encrypted VM has beside its frames and its view, behind the same lock. [`keys`] makes keys, `sealer` encrypts and
//! decrypts frames through this CPU's window, with the routines of `bulkhead-crypto`. [`tmemk`] is the processor's own memory
//! encryption.

pub mod hooks;
pub mod keys;
pub mod sealed;
mod sealer;
pub mod tmemk;
