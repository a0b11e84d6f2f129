//! The secure memory manager: what belongs to a VM is readable to that VM only.
//!
//! [`tmemk`] is the processor's own memory encryption, which is used in addition where the machine has it.

pub mod tmemk;
