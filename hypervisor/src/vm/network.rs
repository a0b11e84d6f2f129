//! Frames from one VM's network card to another's.
//!
//! The sender's CPU does it: it takes a frame, asks the switch, and puts the frame into each receiver. One VM's devices
//! are locked at a time, so two VMs that send to each other cannot wait for each other.

use super::shared::{VmBus, VmShared};

/// Passes on the frames that `vm`'s network card `nic` has.
pub fn transmit(vm: &VmShared, nic: u8) {
    let mut bus = VmBus(vm);
    let _more = vm.devices.lock().transmit_done(nic, &mut bus);
}
