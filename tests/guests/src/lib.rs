//! Shared runtime of the bare-metal test guests.
#![no_std]
