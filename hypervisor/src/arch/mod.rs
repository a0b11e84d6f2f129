//! What only an instruction can do: CPU registers, descriptor tables, exceptions, the local APIC.
//!
//! Neighbours: `vmx` has the VT-x instructions; `bulkhead_core` decides what to write where.
#![allow(
    unsafe_code,
    reason = "every function here is an instruction or a descriptor the CPU reads"
)]

pub mod cpu;
pub mod descriptor;
pub mod exception;
pub mod lapic;
pub mod machine_check;
pub mod power;
pub mod random;
pub mod startup;
