//! From the firmware's hands into ours: files, machine facts, leaving boot services.
//!
//! The order is the list "Boot flow" in `docs/architecture.md`; `main.rs` walks it.

pub mod acpi;
pub mod cpus;
pub mod facts;
pub mod gate;
pub mod handover;
pub mod payload;
pub mod source;
