//! How a function forgets its last VM: by itself, or with its bus.

use core::fmt;

use super::address::Address;
use super::capability::CapabilityKind;
use super::groups::Groups;
use super::inventory::{Function, Inventory};

/// A way to reset a function. Its configuration is lost with it: what matters is written back afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reset {
    /// Set bit 15 of the 16-bit device control register at `control`, then wait [`FUNCTION_RESET_MS`].
    Express {
        /// Where.
        control: u16,
    },
    /// Set bit 0 of the byte at `control`, then wait [`FUNCTION_RESET_MS`].
    AdvancedFeatures {
        /// Where.
        control: u16,
    },
    /// Set and, after [`BUS_RESET_MS`], clear bit 6 of this bridge's control register, then wait
    /// [`AFTER_BUS_RESET_MS`]. Everything behind it is reset.
    SecondaryBus(Address),
}

/// How long a function has to finish its reset (PCI Express Base Specification, "Function-Level Reset (FLR)").
pub const FUNCTION_RESET_MS: u32 = 100;
/// How long a secondary bus is held in reset: at least 1 ms (PCI-to-PCI Bridge Architecture Specification, "Secondary
/// Bus Reset Signal").
pub const BUS_RESET_MS: u32 = 2;
/// How long devices have until they must answer again (PCI Local Bus Specification 3.0, "Reset", 2^25 clocks).
pub const AFTER_BUS_RESET_MS: u32 = 1000;

/// Why a function cannot be reset, so that no VM gets it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResetRefusal {
    /// There is no such function.
    Missing(Address),
    /// It has no reset of its own, and no bridge above it that could.
    RootBus(Address),
    /// It has no reset of its own, and its bus is shared with a function of another group.
    SharedBus {
        /// The function.
        function: Address,
        /// The bridge that would reset both.
        bridge: Address,
        /// The other one.
        other: Address,
    },
}

impl fmt::Display for ResetRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(function) => write!(f, "there is no PCI function {function}"),
            Self::RootBus(function) => write!(
                f,
                "{function} cannot be reset: it has no function-level reset and is on a root bus; \
                 give the VM a device in a slot"
            ),
            Self::SharedBus {
                function,
                bridge,
                other,
            } => write!(
                f,
                "{function} cannot be reset: it has no function-level reset, and a reset of the bus behind {bridge} \
                 would reset {other} too; put it into a slot of its own"
            ),
        }
    }
}

impl core::error::Error for ResetRefusal {}

/// How `function` is reset before another VM gets it.
///
/// # Errors
/// [`ResetRefusal`] where it cannot be without resetting what is not its group's.
#[inline(never)]
pub fn choose(
    inventory: &Inventory,
    groups: &Groups,
    function: Address,
) -> Result<Reset, ResetRefusal> {
    let found = inventory
        .find(function)
        .ok_or(ResetRefusal::Missing(function))?;
    if let Some(reset) = own(found) {
        return Ok(reset);
    }
    let bridge = inventory
        .ancestors(found)
        .next()
        .ok_or(ResetRefusal::RootBus(function))?
        .address;
    let group = groups.of(function).unwrap_or_default();
    let behind = |other: &&Function| {
        inventory
            .ancestors(other)
            .any(|above| above.address == bridge)
    };
    let mut all = inventory.functions().iter().filter(behind);
    match all.find(|other| group.binary_search(&other.address).is_err()) {
        None => Ok(Reset::SecondaryBus(bridge)),
        Some(other) => Err(ResetRefusal::SharedBus {
            function,
            bridge,
            other: other.address,
        }),
    }
}

/// The reset that a function has for itself alone.
fn own(function: &Function) -> Option<Reset> {
    const DEVICE_CONTROL: u16 = 8;
    const AF_CONTROL: u16 = 4;
    function.capabilities.iter().find_map(|capability| {
        let at = u16::from(capability.at);
        match capability.kind {
            CapabilityKind::Express(express) if express.reset => Some(Reset::Express {
                control: at + DEVICE_CONTROL,
            }),
            CapabilityKind::AdvancedFeatures { reset: true } => Some(Reset::AdvancedFeatures {
                control: at + AF_CONTROL,
            }),
            _ => None,
        }
    })
}
