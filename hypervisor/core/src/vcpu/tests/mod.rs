//! The exit dispatcher against a made-up processor: [`machine`] is that processor, [`entry_rules`] are VM entry's own
//! checks as the oracle, the other modules are behaviour by topic, [`fuzz`] is a million exits that nobody arranged.

mod devices;
mod entry_rules;
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
mod sides;
mod split;
mod split_code;
mod split_private;
mod startup;
mod strings;
