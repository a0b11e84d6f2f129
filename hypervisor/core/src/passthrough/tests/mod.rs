//! Real functions in a VM, from what the guest writes to what the machine gets.

mod guest;
mod hostile;
mod parts;
mod rig;
mod virtual_config;
