//! VT-x as data: VMCS fields, capability negotiation, controls, exit decoding.
//!
//! The shell's `vmx` executes the instructions; everything here is arithmetic on what they report.

pub mod capability;
pub mod controls;
pub mod exit;
pub mod field;
