//! Every decision Bulkhead takes, with no effects: no instruction, MMIO access or firmware call happens here.
//!
//! The UEFI binary (`hypervisor/src`) applies what this library decides. A subsystem has the same
//! name on both sides. Everything here runs on the host under `cargo test`.
//!
//! What runs once a boot has crates of its own, which are made small where this one is made fast: what is known of the
//! machine (`bulkhead-host`), and what a person asks of it (`bulkhead-manifest`). Both are handed on here.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

extern crate alloc;

#[cfg(test)]
use bulkhead_host::testing;
pub use bulkhead_host::{addr, bootfile, hostacpi, order, pci};
pub use bulkhead_manifest as manifest;
pub use bulkhead_tpm as tpm;

pub mod apic;
pub mod backing;
pub mod bus;
pub mod call;
pub mod console;
pub mod cow;
pub mod cpuid;
pub mod device;
pub mod ept;
pub mod events;
pub mod fault;
mod flags;
pub mod hostpt;
pub mod hypercall;
pub mod insn;
pub mod ledger;
pub mod lifecycle;
pub mod mce;
pub mod mitigation;
pub mod msr;
pub mod mtrr;
pub mod notice;
pub mod passthrough;
pub mod placement;
pub mod platform;
pub mod ring;
pub mod sched;
pub mod secmem;
pub mod skew;
pub mod split;
pub mod switch;
pub mod symmetry;
pub mod table;
pub mod topology;
pub mod vcpu;
pub mod views;
pub mod vmx;
pub mod vtd;
pub mod walk;
