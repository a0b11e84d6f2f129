//! Finding every function: from the root buses down through the bridges, each bus once.
//!
//! A root bus is one of a host bridge's range that no bridge leads to: the firmware's table of memory windows names
//! ranges, not root buses, so all of a range is looked at. So is, in the end, what a bridge was given and nobody led to:
//! a function that is missed would not be silenced. A bridge is followed only where its numbers can be true:
//! behind its own bus, within its parent's buses, and nobody else's. That bounds the walk whatever the registers say.

use alloc::vec::Vec;

use super::access::{Config, ConfigAccess};
use super::address::Address;
use super::bar;
use super::capability::{self, CapabilityKind};
use super::identity::{Class, DeviceId};
use super::inventory::{Behind, Function, Header, Inventory, Warning};
use super::register;

/// Devices on a bus.
const DEVICES: u8 = 32;
/// Functions of a device.
const FUNCTIONS: u8 = 8;
/// What a function answers that is still starting (PCI Express Base Specification, "Configuration Request Retry
/// Status").
const RETRY: u16 = 0x0001;

/// The buses below one host bridge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostBridge {
    /// The segment group.
    pub segment: u16,
    /// Its first bus.
    pub first_bus: u8,
    /// Its last bus.
    pub last_bus: u8,
}

/// Finds all functions below `bridges`. Base addresses are sized, so that for a moment a device does not decode.
#[inline(never)]
pub fn enumerate(access: &mut dyn ConfigAccess, bridges: &[HostBridge]) -> Inventory {
    let mut walk = Walk {
        access,
        functions: Vec::new(),
        warnings: Vec::new(),
        claims: Vec::new(),
        scanned: Vec::new(),
    };
    for bridge in bridges {
        for stray in [false, true] {
            for bus in bridge.first_bus..=bridge.last_bus {
                let parent = walk.claimed_by((bridge.segment, bus));
                if parent.is_some() == stray {
                    walk.descend(Bus {
                        segment: bridge.segment,
                        number: bus,
                        last: bridge.last_bus,
                        parent,
                    });
                }
            }
        }
    }
    Inventory::new(walk.functions, walk.warnings)
}

/// A bus to be looked at.
#[derive(Clone, Copy)]
struct Bus {
    segment: u16,
    number: u8,
    /// The last bus that a bridge on it may lead to.
    last: u8,
    /// The bridge that leads here.
    parent: Option<Address>,
}

struct Walk<'a> {
    access: &'a mut dyn ConfigAccess,
    functions: Vec<Function>,
    warnings: Vec<Warning>,
    /// The innermost bridge that a bus belongs to.
    claims: Vec<((u16, u8), Address)>,
    scanned: Vec<(u16, u8)>,
}

impl Walk<'_> {
    /// The innermost bridge that leads to a bus.
    fn claimed_by(&self, bus: (u16, u8)) -> Option<Address> {
        let mut claims = self.claims.iter();
        claims
            .find(|(key, _)| *key == bus)
            .map(|(_, bridge)| *bridge)
    }

    /// Looks at `root` and at all that is behind it.
    fn descend(&mut self, root: Bus) {
        let mut waiting = Vec::from([root]);
        while let Some(bus) = waiting.pop() {
            if self.scanned.contains(&(bus.segment, bus.number)) {
                continue;
            }
            self.scanned.push((bus.segment, bus.number));
            for device in 0..DEVICES {
                self.look_at_device(bus, device, &mut waiting);
            }
        }
    }

    fn look_at_device(&mut self, bus: Bus, device: u8, waiting: &mut Vec<Bus>) {
        for number in 0..FUNCTIONS {
            let Some(address) = Address::new(bus.segment, bus.number, device, number) else {
                return;
            };
            let several = self.look_at_function(address, bus, waiting);
            // Without a first function there is no device, and only that says whether there are more.
            if number == 0 && several != Some(true) {
                return;
            }
        }
    }

    /// Takes in the function at `address`, if there is one, and says whether its device has several.
    fn look_at_function(
        &mut self,
        address: Address,
        bus: Bus,
        waiting: &mut Vec<Bus>,
    ) -> Option<bool> {
        let mut config = Config::new(self.access, address);
        let id = DeviceId::from_register(config.u32(register::ID));
        match id.vendor {
            0 | u16::MAX => return None,
            RETRY => {
                self.warnings.push(Warning::NotReady(address));
                return None;
            }
            _ => {}
        }
        let class = config.u32(register::REVISION);
        let kind = config.u8(register::HEADER_TYPE);
        let header = match kind & !register::MULTI_FUNCTION {
            0 => Header::Device,
            1 | 2 => {
                let [_, secondary, subordinate, _] =
                    config.u32(register::BUS_NUMBERS).to_le_bytes();
                Header::Bridge(self.claim(address, bus, secondary, subordinate, waiting))
            }
            kind => {
                let function = address;
                self.warnings.push(Warning::Header { function, kind });
                Header::Unknown(kind)
            }
        };
        let function = read_function(
            &mut Config::new(self.access, address),
            Identity {
                id,
                class,
                header,
                card_bus: kind & !register::MULTI_FUNCTION == 2,
                parent: bus.parent,
            },
            &mut self.warnings,
        );
        self.functions.push(function);
        Some(kind & register::MULTI_FUNCTION != 0)
    }

    /// Gives the buses to the bridge at `address` that it says are behind it, if it can be true.
    fn claim(
        &mut self,
        bridge: Address,
        bus: Bus,
        secondary: u8,
        subordinate: u8,
        waiting: &mut Vec<Bus>,
    ) -> Behind {
        if secondary == 0 && subordinate == 0 {
            return Behind::Nothing;
        }
        let within = bus.number < secondary && secondary <= subordinate && subordinate <= bus.last;
        let buses = || (secondary..=subordinate).map(|number| (bus.segment, number));
        let free = buses().all(|bus_key| {
            self.claimed_by(bus_key) == bus.parent && !self.scanned.contains(&bus_key)
        });
        if !within || !free {
            self.warnings.push(Warning::BusNumbers {
                bridge,
                secondary,
                subordinate,
            });
            return Behind::Claimed {
                secondary,
                subordinate,
            };
        }
        // The innermost bridge, where one is within another's buses.
        self.claims
            .retain(|(key, _)| !buses().any(|bus| bus == *key));
        self.claims.extend(buses().map(|key| (key, bridge)));
        waiting.push(Bus {
            segment: bus.segment,
            number: secondary,
            last: subordinate,
            parent: Some(bridge),
        });
        Behind::Buses {
            secondary,
            subordinate,
        }
    }
}

/// What is known of a function before the rest of it is read.
struct Identity {
    id: DeviceId,
    /// Class and revision, as the register has them.
    class: u32,
    header: Header,
    card_bus: bool,
    parent: Option<Address>,
}

fn read_function(
    config: &mut Config<'_>,
    identity: Identity,
    warnings: &mut Vec<Warning>,
) -> Function {
    let Identity {
        id,
        class,
        header,
        card_bus,
        parent,
    } = identity;
    // What a CardBus bridge has in place of base addresses and capabilities concerns nobody here.
    let (bars, rom) = match header {
        Header::Device => bar::size_all(config, 6, register::ROM, warnings),
        Header::Bridge(_) if !card_bus => bar::size_all(config, 2, register::BRIDGE_ROM, warnings),
        Header::Bridge(_) | Header::Unknown(_) => (Vec::new(), None),
    };
    let capabilities = match header {
        Header::Unknown(_) => Vec::new(),
        _ if card_bus => Vec::new(),
        _ => capability::read_list(config, warnings),
    };
    let express = capabilities
        .iter()
        .any(|capability| matches!(capability.kind, CapabilityKind::Express(_)));
    let extended = if express {
        capability::read_extended(config, warnings)
    } else {
        Vec::new()
    };
    let subsystem = match header {
        Header::Device => Some(DeviceId::from_register(config.u32(register::SUBSYSTEM))),
        _ => None,
    };
    Function {
        address: config.function(),
        id,
        class: Class::new(class >> 8),
        revision: class as u8,
        subsystem,
        header,
        parent,
        bars,
        rom,
        capabilities,
        extended,
    }
}
