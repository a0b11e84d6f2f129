//! Silencing the machine: what no VM was given reads and writes no memory. Needed before remapping is switched on, when
//! nothing else holds a device back.
//!
//! The order is leaf first. A bridge whose mastering is off forwards nothing from below, so it would hold back what
//! devices have under way, and a device would look idle that is not.

use alloc::vec::Vec;
use core::cmp::Reverse;

use crate::order::sort_by_key;

use super::address::Address;
use super::capability::{CapabilityKind, SRIOV_CONTROL};
use super::groups::has_virtual_functions;
use super::inventory::{Function, Header, Inventory};

/// One thing to do, in its turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Clear VF Enable and VF MSE in the 16-bit register at `control`: virtual functions master the bus by themselves.
    DisableVirtualFunctions {
        /// Whose.
        function: Address,
        /// Where.
        control: u16,
    },
    /// Clear [`Command::MASTER`](super::register::Command::MASTER) in the command register.
    ClearMaster(Address),
    /// Wait until bit 5 of the 16-bit register at `status`, "Transactions Pending", is clear; give up after
    /// [`IDLE_TIMEOUT_MS`].
    AwaitIdle {
        /// Whose.
        function: Address,
        /// Where.
        status: u16,
    },
}

/// How long a function may take to finish what it has under way: the longest completion time-out that a device may use
/// without being asked to (PCI Express Base Specification, "Device Control 2 Register").
pub const IDLE_TIMEOUT_MS: u32 = 50;
/// The bits of [`Step::DisableVirtualFunctions`].
pub const VIRTUAL_FUNCTION_BITS: u16 = 1 | 1 << 3;
/// The bit of [`Step::AwaitIdle`].
pub const TRANSACTIONS_PENDING: u16 = 1 << 5;

/// What to do so that no function masters the bus, leaves first.
#[must_use]
#[inline(never)]
pub fn quiesce(inventory: &Inventory) -> Vec<Step> {
    let mut order: Vec<&Function> = inventory.functions().iter().collect();
    sort_by_key(&mut order, |function| {
        Reverse(inventory.ancestors(function).count())
    });
    let mut steps = Vec::new();
    for function in order {
        let address = function.address;
        if let Some(at) = has_virtual_functions(function) {
            steps.push(Step::DisableVirtualFunctions {
                function: address,
                control: at + SRIOV_CONTROL,
            });
        }
        steps.push(Step::ClearMaster(address));
        if let (Header::Device, Some(status)) = (function.header, device_status(function)) {
            steps.push(Step::AwaitIdle {
                function: address,
                status,
            });
        }
    }
    steps
}

/// Where the device status register of a PCI Express function is.
fn device_status(function: &Function) -> Option<u16> {
    const DEVICE_STATUS: u16 = 0x0a;
    function.capabilities.iter().find_map(|capability| {
        matches!(capability.kind, CapabilityKind::Express(_))
            .then(|| u16::from(capability.at) + DEVICE_STATUS)
    })
}
