//! A port of the switch: the NIC behind it, what it may do, and what was counted.

use core::num::NonZeroU64;

use super::mac::Mac;
use crate::ledger::VmId;

/// The most ports of one machine.
pub const MAX_PORTS: usize = 128;

/// A port's number: the place of its configuration in the list the switch was made from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortId(pub u8);

/// A segment's number. Frames never leave their segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentId(pub u16);

/// Whether a NIC may send with addresses that are not its own.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Spoofing {
    /// It may not: source address and ARP sender must be the port's.
    #[default]
    Deny,
    /// It may, as a guest that bridges or routes for others must. The switch learns what is behind it.
    Allow,
}

/// What the manifest says of one NIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortConfig {
    /// The VM it belongs to.
    pub vm: VmId,
    /// Which of the VM's NICs it is.
    pub nic: u8,
    /// The segment it is on.
    pub segment: SegmentId,
    /// Its own address.
    pub mac: Mac,
    /// Whether it may use others.
    pub spoofing: Spoofing,
    /// Bits a second it may send.
    pub rate_limit: Option<NonZeroU64>,
}

/// Frames and their bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Traffic {
    /// How many frames.
    pub frames: u64,
    /// How many bytes, from destination address to the last of the payload.
    pub bytes: u64,
}

impl Traffic {
    pub(super) const fn count(&mut self, bytes: usize) {
        self.frames = self.frames.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }
}

/// Why a frame went nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DropReason {
    /// Its source, or the sender in its ARP packet, is not an address this port may use.
    Spoofed,
    /// The sender is over its rate.
    OverRate,
    /// The receiver had no buffer for it.
    NoBuffer,
    /// No wire would carry a frame of its length, or its ARP packet is cut short.
    Malformed,
    /// Nobody else who runs is on the segment, or the addressed one does not run.
    NoTarget,
    /// The sender's own link is down.
    LinkDown,
}

/// Frames dropped, by reason. [`DropReason::NoBuffer`] counts at the receiver, the others at the sender.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Drops {
    /// See [`DropReason::Spoofed`].
    pub spoofed: u64,
    /// See [`DropReason::OverRate`].
    pub over_rate: u64,
    /// See [`DropReason::NoBuffer`].
    pub no_buffer: u64,
    /// See [`DropReason::Malformed`].
    pub malformed: u64,
    /// See [`DropReason::NoTarget`].
    pub no_target: u64,
    /// See [`DropReason::LinkDown`].
    pub link_down: u64,
}

impl Drops {
    pub(super) const fn count(&mut self, reason: DropReason) {
        let counter = match reason {
            DropReason::Spoofed => &mut self.spoofed,
            DropReason::OverRate => &mut self.over_rate,
            DropReason::NoBuffer => &mut self.no_buffer,
            DropReason::Malformed => &mut self.malformed,
            DropReason::NoTarget => &mut self.no_target,
            DropReason::LinkDown => &mut self.link_down,
        };
        *counter = counter.saturating_add(1);
    }

    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.spoofed
            .saturating_add(self.over_rate)
            .saturating_add(self.no_buffer)
            .saturating_add(self.malformed)
            .saturating_add(self.no_target)
            .saturating_add(self.link_down)
    }
}

/// What was counted at a port, named as its VM sees it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PortCounters {
    /// Sent by the VM and passed on.
    pub sent: Traffic,
    /// Put into a buffer of the VM.
    pub received: Traffic,
    /// Passed on to nobody.
    pub drops: Drops,
}

/// The ports a frame goes to, lowest number first.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[must_use]
pub struct Targets(u128);

const _: () = assert!(MAX_PORTS <= u128::BITS as usize);

impl Targets {
    /// No port.
    pub const NONE: Self = Self(0);

    pub(super) const fn one(port: PortId) -> Self {
        match 1_u128.checked_shl(port.0 as u32) {
            Some(bit) => Self(bit),
            None => Self::NONE,
        }
    }

    pub(super) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(super) const fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `port` is one.
    #[must_use]
    pub const fn contains(self, port: PortId) -> bool {
        !self.both(Self::one(port)).is_empty()
    }
}

impl Iterator for Targets {
    type Item = PortId;

    fn next(&mut self) -> Option<PortId> {
        if self.is_empty() {
            return None;
        }
        let port = self.0.trailing_zeros() as u8;
        self.0 &= self.0 - 1;
        Some(PortId(port))
    }
}
