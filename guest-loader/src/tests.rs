//! Tests of whole loads, on images built here: what each format promises, what is refused, and a million damaged images
//! for each parser.

mod acpi;
mod bzimage;
mod dsdt;
mod elf;
mod flat;
mod mutation;
mod support;
