//! Which functions reach each other without the IOMMU: those form one group, and go to one VM.
//!
//! A request that goes up to the root complex is translated before it goes anywhere (Intel VT-d specification,
//! "Root-Complex Peer to Peer Considerations"). One that a switch, a bridge or a device with several functions turns
//! round on the way is not, unless access control services forbid it (PCI Express Base Specification, "Access Control
//! Services (ACS)"). [`links`] names every pair for which nothing does; a group is what they connect. Groups count on
//! the services being switched on as far as they go: [`acs_settings`] says what to write, before any device is used.

use alloc::vec;
use alloc::vec::Vec;

use super::address::Address;
use super::capability::{ACS_CONTROL, Acs, ExtendedKind, PortType};
use super::inventory::{Behind, Function, Header, Inventory};

/// What a port that faces devices must do with all that comes from them.
const PORT: Acs = Acs::SOURCE_VALIDATION
    .union(Acs::REQUEST_REDIRECT)
    .union(Acs::COMPLETION_REDIRECT)
    .union(Acs::UPSTREAM_FORWARDING);

/// Why two functions are in one group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// They are functions of one device, one of which may turn to the other directly.
    OneDevice,
    /// They share a bridge or port that may turn requests round, or that puts its own name to them.
    Bridge,
    /// They are on a bus that a bridge with impossible numbers claims.
    BusNumbers,
}

/// Two functions that reach each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// One of them.
    pub one: Address,
    /// The other.
    pub other: Address,
    /// Why.
    pub reason: Reason,
}

/// The machine's functions, divided into groups.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Groups(Vec<Vec<Address>>);

impl Groups {
    /// The groups of `inventory`.
    #[must_use]
    #[inline(never)]
    pub fn new(inventory: &Inventory) -> Self {
        let functions = inventory.functions();
        let mut sets = DisjointSets::new(functions.len());
        for link in links(inventory) {
            if let (Some(one), Some(other)) =
                (inventory.index_of(link.one), inventory.index_of(link.other))
            {
                sets.unite(one, other);
            }
        }
        let mut groups: Vec<Vec<Address>> = vec![Vec::new(); functions.len()];
        for (index, function) in functions.iter().enumerate() {
            if let Some(group) = groups.get_mut(sets.find(index)) {
                group.push(function.address);
            }
        }
        groups.retain(|group| !group.is_empty());
        Self(groups)
    }

    /// Every group; its functions ascending, the groups by their first.
    #[must_use]
    pub fn all(&self) -> &[Vec<Address>] {
        &self.0
    }

    /// The group of `function`.
    #[must_use]
    pub fn of(&self, function: Address) -> Option<&[Address]> {
        self.0
            .iter()
            .find(|group| group.binary_search(&function).is_ok())
            .map(Vec::as_slice)
    }
}

/// Every pair of functions that nothing keeps from each other, as far as not said by another pair already.
#[must_use]
pub fn links(inventory: &Inventory) -> Vec<Link> {
    let functions = inventory.functions();
    let mut links = Vec::new();
    // Functions of a device are neighbours: each is compared with the first of its device.
    let mut start = 0;
    while let Some(first) = functions.get(start) {
        let rest = functions.get(start..).unwrap_or_default();
        let device = device_of(inventory, first);
        let count = rest
            .iter()
            .take_while(|function| device_of(inventory, function) == device)
            .count();
        let members = rest.get(..count).unwrap_or_default();
        if count > 1 && !members.iter().all(keeps_to_itself) {
            links.extend(
                members
                    .iter()
                    .skip(1)
                    .map(|other| link(first, other, Reason::OneDevice)),
            );
        }
        start += count.max(1);
    }
    for function in functions {
        let bridges = inventory
            .ancestors(function)
            .filter(|bridge| !isolates(inventory, bridge));
        links.extend(bridges.map(|bridge| link(bridge, function, Reason::Bridge)));
    }
    for bridge in functions {
        let Header::Bridge(Behind::Claimed {
            secondary,
            subordinate,
        }) = bridge.header
        else {
            continue;
        };
        let claimed = secondary.min(subordinate)..=secondary.max(subordinate);
        let there = functions.iter().filter(|function| {
            let address = function.address;
            address.segment() == bridge.address.segment() && claimed.contains(&address.bus())
        });
        links.extend(there.map(|function| link(bridge, function, Reason::BusNumbers)));
    }
    links
}

fn link(one: &Function, other: &Function, reason: Reason) -> Link {
    Link {
        one: one.address,
        other: other.address,
        reason,
    }
}

/// What tells devices apart: the bus and the device number; at the end of a link, where there is but one device, the bus.
fn device_of(inventory: &Inventory, function: &Function) -> (u16, u8, Option<u8>) {
    let address = function.address;
    let at_end_of_link = function
        .parent
        .and_then(|parent| inventory.find(parent)?.express())
        .is_some_and(|express| express.port.faces_a_device());
    let device = (!at_end_of_link).then_some(address.device());
    (address.segment(), address.bus(), device)
}

/// Whether a function of a device with several turns to none of the others. What it has no bit for it does not do
/// ("ACS Functions in Multi-Function Devices").
fn keeps_to_itself(function: &Function) -> bool {
    function.acs().is_some()
}

/// Whether what is behind `bridge` reaches others, and each other's devices, only through the root complex.
fn isolates(inventory: &Inventory, bridge: &Function) -> bool {
    let Some(express) = bridge.express() else {
        return false;
    };
    let acs = bridge.acs().map(|(_, acs)| acs);
    match express.port {
        // A root port without a bit for it has no traffic between peers ("ACS in Root Ports").
        PortType::RootPort => acs.is_some_and(|acs| acs.contains(Acs::SOURCE_VALIDATION)),
        PortType::Downstream => acs.is_some_and(|acs| acs.contains(PORT)),
        // A switch is as good as its worst port.
        PortType::Upstream => inventory
            .functions()
            .iter()
            .filter(|port| port.parent == Some(bridge.address))
            .all(isolates_as_port),
        _ => false,
    }
}

/// Whether a port of a switch keeps requests from the other ports.
fn isolates_as_port(port: &Function) -> bool {
    let downstream = port
        .express()
        .is_some_and(|express| express.port == PortType::Downstream);
    downstream && port.acs().is_some_and(|(_, acs)| acs.contains(PORT))
}

/// A control register of access control services, and what belongs there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AcsSetting {
    /// Whose.
    pub function: Address,
    /// Where the 16-bit register is.
    pub at: u16,
    /// What to write.
    pub value: Acs,
}

/// What the groups count on: all that keeps functions apart is on, all that lets them through is off.
#[must_use]
#[inline(never)]
pub fn acs_settings(inventory: &Inventory) -> Vec<AcsSetting> {
    let setting = |function: &Function| {
        let (at, has) = function.acs()?;
        Some(AcsSetting {
            function: function.address,
            at: at + ACS_CONTROL,
            value: has & (PORT | Acs::TRANSLATION_BLOCKING),
        })
    };
    inventory.functions().iter().filter_map(setting).collect()
}

/// Whether a function's device may have functions that no enumeration sees, which firmware left on.
pub(super) fn has_virtual_functions(function: &Function) -> Option<u16> {
    function
        .extended
        .iter()
        .find_map(|capability| match capability.kind {
            ExtendedKind::SrIov { enabled: true, .. } => Some(capability.at),
            _ => None,
        })
}

/// Sets that only grow together: each member knows one nearer to its set's lowest.
struct DisjointSets(Vec<usize>);

impl DisjointSets {
    fn new(count: usize) -> Self {
        Self((0..count).collect())
    }

    /// The lowest member of the set of `member`.
    fn find(&mut self, member: usize) -> usize {
        let mut at = member;
        while let Some(next) = self.0.get(at).copied().filter(|next| *next != at) {
            // Every step shortens the way for the next search.
            let after = self.0.get(next).copied().unwrap_or(next);
            if let Some(slot) = self.0.get_mut(at) {
                *slot = after;
            }
            at = after;
        }
        at
    }

    fn unite(&mut self, one: usize, other: usize) {
        let (one, other) = (self.find(one), self.find(other));
        if let Some(slot) = self.0.get_mut(one.max(other)) {
            *slot = one.min(other);
        }
    }
}
