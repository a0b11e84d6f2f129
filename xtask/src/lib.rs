//! Library half of `cargo xtask`: provisioning, images, platforms, runs.

pub mod error;
pub mod exec;
pub mod paths;
pub mod provision;
pub mod ui;

pub use error::{Error, Result};
pub use paths::Workspace;
