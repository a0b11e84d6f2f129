//! What is on the machine's buses: every function, typed, and which bridge it is behind.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::order;

use super::address::Address;
use super::bar::{Bar, Rom};
use super::capability::{
    Acs, Capability, CapabilityKind, Express, ExtendedCapability, ExtendedKind, PortType,
};
use super::identity::{Class, DeviceId};

/// One function of the machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Function {
    /// Where it is.
    pub address: Address,
    /// Its vendor and device.
    pub id: DeviceId,
    /// What it is for.
    pub class: Class,
    /// Its revision.
    pub revision: u8,
    /// The card it is on, by the card's maker; a bridge has none here.
    pub subsystem: Option<DeviceId>,
    /// Whether it is a device or a bridge.
    pub header: Header,
    /// The bridge it is behind; none on a root bus.
    pub parent: Option<Address>,
    /// Its base addresses, ascending.
    pub bars: Vec<Bar>,
    /// Its expansion ROM.
    pub rom: Option<Rom>,
    /// Its capabilities, in the order of the list.
    pub capabilities: Vec<Capability>,
    /// Its extended capabilities, in the order of the list.
    pub extended: Vec<ExtendedCapability>,
}

/// What kind of header a function has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Header {
    /// A device's.
    Device,
    /// That of a bridge to PCI or CardBus.
    Bridge(Behind),
    /// One that no specification knows.
    Unknown(u8),
}

/// The buses behind a bridge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Behind {
    /// None: the bridge was given no number.
    Nothing,
    /// These, which no other bridge leads to.
    Buses {
        /// The one directly behind.
        secondary: u8,
        /// The last.
        subordinate: u8,
    },
    /// The bridge claims numbers that it cannot have: nobody knows what is behind.
    Claimed {
        /// The one it says is directly behind.
        secondary: u8,
        /// The one it says is last.
        subordinate: u8,
    },
}

/// Something odd that was worked around.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Warning {
    /// A function is still starting, and was left out.
    NotReady(Address),
    /// A header of an unknown kind: nothing of it is used but its identity.
    Header {
        /// Whose.
        function: Address,
        /// Which.
        kind: u8,
    },
    /// A bridge whose bus numbers are inverted, outside its own bridge's, or another's. What is on them forms one group.
    BusNumbers {
        /// Which.
        bridge: Address,
        /// The bus it says is behind it.
        secondary: u8,
        /// The bus it says is the last.
        subordinate: u8,
    },
    /// A capability list that leads back, or out. What came before is used.
    CapabilityList {
        /// Whose.
        function: Address,
        /// Where it went wrong.
        at: u16,
    },
    /// A base address that no size explains; it is not used.
    Bar {
        /// Whose.
        function: Address,
        /// Which.
        index: u8,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady(function) => {
                write!(
                    f,
                    "{function} is not ready yet and left out; it is seen after a reboot"
                )
            }
            Self::Header { function, kind } => {
                write!(f, "{function} has a header of the unknown kind {kind:#x}")
            }
            Self::BusNumbers {
                bridge,
                secondary,
                subordinate,
            } => write!(
                f,
                "the bridge {bridge} claims buses {secondary:02x} to {subordinate:02x}, which cannot be: \
                 what is there forms one group"
            ),
            Self::CapabilityList { function, at } => {
                write!(f, "the capability list of {function} breaks at {at:#x}")
            }
            Self::Bar { function, index } => {
                write!(f, "base address {index} of {function} has no sensible size")
            }
        }
    }
}

/// Every function of the machine, by address.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Inventory {
    functions: Vec<Function>,
    warnings: Vec<Warning>,
}

impl Inventory {
    pub(super) fn new(mut functions: Vec<Function>, warnings: Vec<Warning>) -> Self {
        order::sort_by_key(&mut functions, |function| function.address);
        Self {
            functions,
            warnings,
        }
    }

    /// The functions, ascending by address; no address is there twice.
    #[must_use]
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// What was odd.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The function at `address`.
    #[must_use]
    pub fn find(&self, address: Address) -> Option<&Function> {
        self.functions.get(self.index_of(address)?)
    }

    /// Which of [`functions`](Self::functions) is at `address`.
    pub(super) fn index_of(&self, address: Address) -> Option<usize> {
        self.functions
            .binary_search_by_key(&address, |function| function.address)
            .ok()
    }

    /// The bridges above `function`, the nearest first. It ends: a bridge's bus is always before those behind it.
    pub fn ancestors(&self, function: &Function) -> impl Iterator<Item = &Function> {
        let parent = |function: &Function| self.find(function.parent?);
        core::iter::successors(parent(function), move |bridge| parent(bridge))
    }

    /// Who the requests of `function` may seem to come from: itself, and where there is a bridge to a conventional bus
    /// above it, that bridge in both ways that it has of putting its name to them (PCI Express to PCI/PCI-X Bridge
    /// Specification, "Requester ID and Tag assignment").
    #[must_use]
    #[inline(never)]
    pub fn requesters(&self, function: &Function) -> Vec<Address> {
        let mut requesters = vec![function.address];
        for bridge in self.ancestors(function) {
            let express = bridge.express().map(|express| express.port);
            if matches!(
                express,
                None | Some(PortType::ToConventional | PortType::FromConventional)
            ) {
                requesters.push(bridge.address);
                if let (Some(PortType::ToConventional), Header::Bridge(behind)) =
                    (express, bridge.header)
                    && let Some(secondary) = behind.secondary()
                {
                    let id = u16::from_be_bytes([secondary, 0]);
                    requesters.push(Address::from_source_id(bridge.address.segment(), id));
                }
            }
        }
        order::sort(&mut requesters);
        requesters.dedup();
        requesters
    }
}

impl Behind {
    /// The bus directly behind, where that is known.
    #[must_use]
    pub const fn secondary(self) -> Option<u8> {
        match self {
            Self::Buses { secondary, .. } => Some(secondary),
            Self::Nothing | Self::Claimed { .. } => None,
        }
    }
}

impl Function {
    /// Whether it is a bridge, which stays with the hypervisor.
    #[must_use]
    pub const fn is_bridge(&self) -> bool {
        matches!(self.header, Header::Bridge(_))
    }

    /// Whether a VM can have it: it is a device, and none that holds the machine together (class 06: host and ISA
    /// bridges and their like).
    #[must_use]
    pub const fn is_assignable(&self) -> bool {
        const BRIDGE: u8 = 0x06;
        matches!(self.header, Header::Device) && self.class.base() != BRIDGE
    }

    /// Its PCI Express capability.
    #[must_use]
    pub fn express(&self) -> Option<Express> {
        self.capabilities
            .iter()
            .find_map(|capability| match capability.kind {
                CapabilityKind::Express(express) => Some(express),
                _ => None,
            })
    }

    /// Its access control services, and where they are.
    #[must_use]
    pub fn acs(&self) -> Option<(u16, Acs)> {
        self.extended
            .iter()
            .find_map(|capability| match capability.kind {
                ExtendedKind::Acs(acs) => Some((capability.at, acs)),
                _ => None,
            })
    }

    /// Its base address `index`.
    #[must_use]
    pub fn bar(&self, index: u8) -> Option<&Bar> {
        self.bars.iter().find(|bar| bar.index == index)
    }
}
