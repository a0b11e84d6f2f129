//! Library half of `cargo xtask`: provisioning, images, platforms, runs.

pub mod build;
pub mod cmd;
pub mod error;
pub mod exec;
pub mod image;
pub mod manifest;
pub mod paths;
pub mod provision;
pub mod ui;

pub use error::{Error, Result};
pub use paths::Workspace;
