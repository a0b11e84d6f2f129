//! The switch between the VMs' NICs: for each frame a VM sends, the ports it goes to, or why it goes nowhere.
//!
//! [`Switch`] learns which stations are behind which port, as a switch of IEEE 802.1Q does, within
//! segments that share nothing. A port's own address is known from the manifest and is never learned elsewhere. Unless
//! the manifest allows it, a port may send with its own address only, in the frame's header and as the sender of ARP.
//! What is in IP packets is not looked at: neighbour discovery of IPv6 and IP addresses are the guests' business.
//!
//! The shell moves the bytes: it takes a frame from a NIC ([`crate::device::virtio::net`]), asks [`Switch::forward`], offers the
//! frame to each target, and reports what came of it with [`Switch::delivered`] or [`Switch::refused`]. Nothing here
//! allocates after [`Switch::new`].

mod frame;
mod mac;
mod port;
mod rate;
mod table;
mod targets;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::fmt;
use core::num::NonZeroU64;

pub use self::frame::{MAX_FRAME, MAX_UNTAGGED_FRAME, MIN_FRAME};
pub use self::port::{
    DropReason, Drops, MAX_PORTS, PortConfig, PortCounters, PortId, SegmentId, Traffic,
};
pub use self::table::QUOTA;
pub use self::targets::Targets;

use self::frame::{Frame, SenderClaim};
use self::mac::Mac;
use self::rate::TokenBucket;
use self::table::MacTable;
use crate::manifest::{MacAddress, Spoofing};
use crate::order;

/// Why no switch can be made of a list of ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SwitchError {
    /// There are more than [`MAX_PORTS`].
    TooManyPorts {
        /// How many there are.
        ports: usize,
    },
    /// Two ports of one segment have the same address.
    SameAddress {
        /// One of them.
        first: PortId,
        /// The other.
        second: PortId,
        /// The address.
        mac: MacAddress,
    },
}

impl fmt::Display for SwitchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyPorts { ports } => write!(
                f,
                "{ports} NICs are more than the {MAX_PORTS} ports the switch has; remove some from the manifest"
            ),
            Self::SameAddress { first, second, mac } => write!(
                f,
                "NICs {} and {} share a segment and the address {mac}; give one of them another `mac`",
                first.0, second.0
            ),
        }
    }
}

impl core::error::Error for SwitchError {}

/// A port's state.
#[derive(Debug)]
struct Port {
    config: PortConfig,
    /// Where its segment is in [`Switch::segments`].
    segment: usize,
    limit: Option<TokenBucket>,
    counters: PortCounters,
}

/// One segment's state.
#[derive(Debug)]
struct Segment {
    id: SegmentId,
    ports: Targets,
    /// The ports' own addresses, sorted.
    own: Vec<(Mac, PortId)>,
    learned: MacTable,
}

impl Segment {
    /// The port whose own address this is.
    fn owner(&self, mac: Mac) -> Option<PortId> {
        let at = self.own.binary_search_by_key(&mac, |(own, _)| *own).ok()?;
        self.own.get(at).map(|(_, port)| *port)
    }
}

/// The switch of one machine.
#[derive(Debug)]
pub struct Switch {
    ports: Vec<Port>,
    segments: Vec<Segment>,
    /// The ports whose link is up.
    up: Targets,
}

impl Switch {
    /// A switch with these ports, numbered as they come, all links down.
    ///
    /// # Errors
    /// When there are too many ports, or their own addresses do not tell them apart.
    pub fn new(configs: &[PortConfig], tsc_hz: NonZeroU64) -> Result<Self, SwitchError> {
        if configs.len() > MAX_PORTS {
            return Err(SwitchError::TooManyPorts {
                ports: configs.len(),
            });
        }
        let mut ids: Vec<SegmentId> = configs.iter().map(|config| config.segment).collect();
        order::sort(&mut ids);
        ids.dedup();
        let segments = ids
            .into_iter()
            .map(|id| segment(id, configs, tsc_hz))
            .collect::<Result<Vec<_>, _>>()?;
        let ports = configs
            .iter()
            .map(|config| Port {
                config: *config,
                segment: segments.partition_point(|segment| segment.id < config.segment),
                limit: config.rate_limit.map(|rate| TokenBucket::new(rate, tsc_hz)),
                counters: PortCounters::default(),
            })
            .collect();
        Ok(Self {
            ports,
            segments,
            up: Targets::NONE,
        })
    }

    /// Where a frame that `from` sends goes: ports of the same segment whose link is up, never `from` itself. Where it
    /// goes nowhere, that is counted by reason.
    pub fn forward(&mut self, from: PortId, frame: &[u8], now_tsc: u64) -> Targets {
        match self.decide(from, frame, now_tsc) {
            Ok(targets) => {
                self.count(from, |counters| counters.sent.count(frame.len()));
                targets
            }
            Err(reason) => {
                self.count(from, |counters| counters.drops.count(reason));
                Targets::NONE
            }
        }
    }

    /// A frame of `bytes` was put into a buffer of `to`.
    pub fn delivered(&mut self, to: PortId, bytes: usize) {
        self.count(to, |counters| counters.received.count(bytes));
    }

    /// `to` had no buffer for a frame, or no time, or its VM is paused.
    pub fn refused(&mut self, to: PortId) {
        self.count(to, |counters| counters.drops.count(DropReason::NoBuffer));
    }

    /// Takes a port's link up, when its VM starts, or down, when it stops. What was learned behind it is forgotten.
    pub fn set_link(&mut self, port: PortId, up: bool) {
        let Some(state) = self.ports.get(usize::from(port.0)) else {
            return;
        };
        if let Some(segment) = self.segments.get_mut(state.segment) {
            segment.learned.forget(port);
        }
        if up {
            self.up.insert(port);
        } else {
            self.up.remove(port);
        }
    }

    /// Whether a port's link is up.
    #[must_use]
    pub fn link(&self, port: PortId) -> bool {
        self.up.contains(port)
    }

    /// What was counted at a port.
    #[must_use]
    pub fn counters(&self, port: PortId) -> Option<&PortCounters> {
        self.ports
            .get(usize::from(port.0))
            .map(|port| &port.counters)
    }

    fn decide(&mut self, from: PortId, bytes: &[u8], now_tsc: u64) -> Result<Targets, DropReason> {
        let up = self.up;
        let port = self
            .ports
            .get_mut(usize::from(from.0))
            .filter(|_| up.contains(from))
            .ok_or(DropReason::LinkDown)?;
        let segment = self
            .segments
            .get_mut(port.segment)
            .ok_or(DropReason::LinkDown)?;
        let frame = Frame::parse(bytes).ok_or(DropReason::Malformed)?;
        check_sender(&port.config, &frame)?;
        if let Some(limit) = &mut port.limit
            && !limit.take(bytes.len(), now_tsc)
        {
            return Err(DropReason::OverRate);
        }
        if port.config.spoofing == Spoofing::Allow && segment.owner(frame.source).is_none() {
            segment.learned.learn(frame.source, from, now_tsc);
        }
        let known = segment
            .owner(frame.destination)
            .or_else(|| segment.learned.find(frame.destination, now_tsc));
        let mut targets = known.map_or(segment.ports, Targets::one).both(&up);
        targets.remove(from);
        if targets.is_empty() {
            return Err(DropReason::NoTarget);
        }
        Ok(targets)
    }

    fn count(&mut self, port: PortId, count: impl FnOnce(&mut PortCounters)) {
        if let Some(port) = self.ports.get_mut(usize::from(port.0)) {
            count(&mut port.counters);
        }
    }
}

/// Whether a frame's sender is who it says it is.
fn check_sender(config: &PortConfig, frame: &Frame<'_>) -> Result<(), DropReason> {
    let own = Mac::from(config.mac);
    match config.spoofing {
        Spoofing::Allow if frame.source.is_station() => Ok(()),
        Spoofing::Deny if frame.source == own => match frame.sender_claim() {
            SenderClaim::None => Ok(()),
            SenderClaim::Arp(sender) if sender == own => Ok(()),
            SenderClaim::Arp(_) => Err(DropReason::Spoofed),
            SenderClaim::Malformed => Err(DropReason::Malformed),
        },
        Spoofing::Allow | Spoofing::Deny => Err(DropReason::Spoofed),
    }
}

/// The segment `id` of these ports.
fn segment(
    id: SegmentId,
    configs: &[PortConfig],
    tsc_hz: NonZeroU64,
) -> Result<Segment, SwitchError> {
    let mut ports = Targets::NONE;
    let mut own = Vec::new();
    let mut learning_ports = 0;
    for (port, config) in (0..).map(PortId).zip(configs) {
        if config.segment == id {
            ports.insert(port);
            own.push((config.mac, port));
            learning_ports += usize::from(config.spoofing == Spoofing::Allow);
        }
    }
    order::sort(&mut own);
    for (&(mac, first), &(next, second)) in own.iter().zip(own.iter().skip(1)) {
        if mac == next {
            return Err(SwitchError::SameAddress { first, second, mac });
        }
    }
    Ok(Segment {
        id,
        ports,
        own: own
            .into_iter()
            .map(|(mac, port)| (Mac::from(mac), port))
            .collect(),
        learned: MacTable::new(learning_ports, tsc_hz.get()),
    })
}
