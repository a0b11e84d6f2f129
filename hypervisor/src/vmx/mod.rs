//! VT-x effects: the instructions, the regions, entering a guest and coming back.
//!
//! What to put into the VMCS and what an exit means is decided in `bulkhead_core::vmx` and
//! `bulkhead_core::vcpu`.
#![allow(unsafe_code, reason = "VMX instructions and the memory they use")]

pub mod enter;
pub mod instruction;
pub mod operation;
pub mod vmcs;
