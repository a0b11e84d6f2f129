//! Turns a kernel image, an initrd and a command line into a bootable guest: pure, host-testable.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

extern crate alloc;
