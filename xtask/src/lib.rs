//! Library half of `cargo xtask`: provisioning, images, platforms, runs.

pub mod build;
pub mod cmd;
pub mod error;
pub mod exec;
pub mod image;
pub mod manifest;
pub mod measure;
pub mod paths;
pub mod platform;
pub mod programs;
pub mod provision;
pub mod run;
pub mod session;
pub mod symbolize;
pub mod terminal;
pub mod tie;
pub mod ui;

pub use error::{Error, Result};
pub use paths::Workspace;
