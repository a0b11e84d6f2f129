//! A port of the switch: the NIC behind it, what it may do, and what was counted.

use alloc::vec::Vec;

use crate::ledger::VmId;
use crate::manifest::{BitRate, MAX_NICS, MAX_VMS, MacAddress, Plan, SegmentName, Spoofing};

/// The most ports of one machine: all NICs that a manifest can give all VMs.
pub const MAX_PORTS: usize = MAX_VMS * MAX_NICS;

/// A port's number: the place of its configuration in the list the switch was made from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortId(pub u16);

/// A segment's number. Frames never leave their segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SegmentId(pub u16);

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
    pub mac: MacAddress,
    /// Whether it may use others.
    pub spoofing: Spoofing,
    /// The most it may send.
    pub rate_limit: Option<BitRate>,
}

impl PortConfig {
    /// The ports of a plan: VM by VM, and in each by the order of its NICs.
    #[must_use]
    pub fn of_plan(plan: &Plan) -> Vec<Self> {
        let mut segments: Vec<&SegmentName> = Vec::new();
        let mut ports = Vec::new();
        for (vm, vm_plan) in (0..).map(VmId).zip(&plan.vms) {
            for (nic, nic_plan) in (0..).zip(&vm_plan.nics) {
                let known = segments.iter().position(|name| **name == nic_plan.segment);
                let segment = known.unwrap_or_else(|| {
                    segments.push(&nic_plan.segment);
                    segments.len() - 1
                });
                ports.push(Self {
                    vm,
                    nic,
                    segment: SegmentId(segment as u16),
                    mac: nic_plan.mac,
                    spoofing: nic_plan.spoofing,
                    rate_limit: nic_plan.rate_limit,
                });
            }
        }
        ports
    }
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
    /// The receiver had no buffer for it, or does not run at the moment.
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

    /// Each by name.
    #[must_use]
    pub const fn by_reason(&self) -> [(&'static str, u64); 6] {
        [
            ("spoofed", self.spoofed),
            ("over_rate", self.over_rate),
            ("no_buffer", self.no_buffer),
            ("malformed", self.malformed),
            ("no_target", self.no_target),
            ("link_down", self.link_down),
        ]
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
