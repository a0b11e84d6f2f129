//! Library half of `cargo xtask`: provisioning, images, platforms, runs.
