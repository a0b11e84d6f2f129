//! The subcommands with more to them than a call.

pub mod manifest;
