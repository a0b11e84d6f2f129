//! The commands of `cargo xtask`, one module each; `run` has its own at the top of the crate.

pub mod bench;
pub mod doctor;
pub mod image;
pub mod manifest;
pub mod test;
