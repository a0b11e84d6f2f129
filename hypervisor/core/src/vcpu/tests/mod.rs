//! The exit dispatcher against a made-up processor: [`machine`] is that processor with the rules of VM entry as its
//! oracle, the other modules are behaviour by topic, [`fuzz`] is a million exits that nobody arranged.

mod devices;
mod exceptions;
mod fuzz;
mod halt;
mod hardware_delivery;
mod instructions;
mod interrupts;
mod machine;
mod mmio;
mod modes;
mod plain;
mod ports;
mod strings;
