//! Frames from one VM's network card to another's.
//!
//! The sender's CPU does it: it takes a frame, asks the switch, and puts the frame into each receiver. One VM's devices
//! are locked at a time, so two VMs that send to each other cannot wait for each other. What is left after [`BATCH`] frames
//! stays noted in the [`Unsent`] of the vCPU that kicked, which goes on when it has its next turn and runs on when nothing is
//! left. The VM's other vCPUs are not held up.

use super::shared::{VmBus, VmShared, Wanted};
use super::{Vm, ticks};
use crate::arch::cpu::rdtsc;
use alloc::vec::Vec;
use bulkhead_core::device::pci::Transmission;
use bulkhead_core::events::NicCounters;
use bulkhead_core::manifest::MAX_NICS;
use bulkhead_core::switch::{MAX_FRAME, PortConfig, PortCounters, PortId, Switch, SwitchError};
use core::num::NonZeroU64;
use spin::{Mutex, Once};

/// Frames that a card passes on before somebody else has a turn.
const BATCH: usize = 64;
/// Milliseconds after which a batch ends as well.
const BATCH_MS: u64 = 1;
/// A frame waits for its receiver's devices a sixteenth of that: a receiver that keeps them busy, disk request upon disk request,
/// loses frames and holds up no sender.
const WAITS_A_BATCH: u64 = 16;

/// The machine's network.
struct Network {
    switch: Mutex<Switch>,
    /// What is behind each port of the switch, VM by VM.
    cards: Vec<Card>,
}

struct Card {
    vm: &'static VmShared,
    nic: u8,
}

static NETWORK: Once<Network> = Once::new();

/// Plugs the VMs' cards in where `ports` says, which lists them VM by VM.
///
/// # Errors
/// The ports cannot be those of one switch.
pub fn install(ports: &[PortConfig], vms: &[Vm], tsc_khz: u32) -> Result<(), SwitchError> {
    let tsc_hz = NonZeroU64::new(u64::from(tsc_khz) * 1000).unwrap_or(NonZeroU64::MIN);
    let switch = Switch::new(ports, tsc_hz)?;
    let mut cards = Vec::with_capacity(ports.len());
    for port in ports {
        let Some(vm) = vms.iter().find(|vm| vm.shared.id == port.vm) else {
            unreachable!("a port of a VM that is not there");
        };
        cards.push(Card {
            vm: vm.shared,
            nic: port.nic,
        });
    }
    NETWORK.call_once(|| Network {
        switch: Mutex::new(switch),
        cards,
    });
    Ok(())
}

/// Cards that a vCPU kicked and that have frames left after their batch, one bit each.
#[derive(Default)]
pub struct Unsent(u8);

const _: () = assert!(MAX_NICS <= u8::BITS as usize);

impl Unsent {
    /// Whether a card has.
    #[inline]
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        self.0 != 0
    }

    /// The vCPU kicked `vm`'s card `nic`: passes a batch on.
    pub fn kick(&mut self, vm: &VmShared, nic: u8) {
        if transmit(vm, nic) {
            self.0 |= 1_u8.checked_shl(nic.into()).unwrap_or(0);
        }
    }

    /// Goes on with what `vm`'s cards had left, a batch each; true where there is still some.
    pub fn resume(&mut self, vm: &VmShared) -> bool {
        let waiting = core::mem::take(&mut self.0);
        for nic in (0..MAX_NICS as u8).filter(|nic| waiting & 1 << nic != 0) {
            self.kick(vm, nic);
        }
        self.is_waiting()
    }
}

/// Passes on frames that `vm`'s network card `nic` has, at most [`BATCH`]; true where it may have more.
fn transmit(vm: &VmShared, nic: u8) -> bool {
    let mut bus = VmBus(vm);
    let more = match NETWORK.get() {
        Some(network) => network.pass_on(vm, nic),
        None => false,
    };
    vm.devices.lock().transmit_done(nic, &mut bus);
    more
}

/// Plugs `vm`'s cards in, or pulls them out.
pub fn set_links(vm: &VmShared, up: bool) {
    let Some(network) = NETWORK.get() else { return };
    let mut switch = network.switch.lock();
    for port in network.ports_of(vm) {
        switch.set_link(port, up);
    }
}

/// What a card's port counted.
pub struct NicReport {
    nic: u32,
    counters: PortCounters,
    /// Frames that went nowhere, the reasons there are any of.
    drops: Vec<(&'static str, u64)>,
}

impl NicReport {
    /// It as an event says it, for a card of `vm`.
    #[must_use]
    pub fn event<'a>(&'a self, vm: &'a Vm) -> NicCounters<'a> {
        let plan = vm.plan.nics.get(self.nic as usize);
        NicCounters {
            vm: vm.plan.name.as_str(),
            nic: self.nic,
            segment: plan.map_or("", |nic| nic.segment.as_str()),
            sent_frames: self.counters.sent.frames,
            sent_bytes: self.counters.sent.bytes,
            received_frames: self.counters.received.frames,
            received_bytes: self.counters.received.bytes,
            drops: &self.drops,
        }
    }
}

/// What the ports of `vm`'s cards counted since the hypervisor began, in the cards' order.
#[must_use]
pub fn reports(vm: &VmShared) -> Vec<NicReport> {
    let Some(network) = NETWORK.get() else {
        return Vec::new();
    };
    let switch = network.switch.lock();
    let counters = network
        .ports_of(vm)
        .filter_map(|port| switch.counters(port));
    (0..)
        .zip(counters)
        .map(|(nic, counters)| NicReport {
            nic,
            counters: *counters,
            drops: counters
                .drops
                .by_reason()
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .collect(),
        })
        .collect()
}

impl Network {
    /// The ports of a VM's cards, in the cards' order.
    fn ports_of(&self, vm: &VmShared) -> impl Iterator<Item = PortId> {
        let first = self.cards.partition_point(|card| card.vm.id.0 < vm.id.0);
        let after = self.cards.partition_point(|card| card.vm.id.0 <= vm.id.0);
        (first..after).map(|port| PortId(port as u16))
    }

    /// Passes on a batch of a card's frames; true where there may be more.
    fn pass_on(&self, vm: &VmShared, nic: u8) -> bool {
        let Some(from) = self.ports_of(vm).nth(nic.into()) else {
            return false;
        };
        let mut frame = [0; MAX_FRAME];
        let end = rdtsc().saturating_add(ticks(BATCH_MS));
        for _ in 0..BATCH {
            let taken = vm.devices.lock().transmit(nic, &mut frame, &mut VmBus(vm));
            let length = match taken {
                Transmission::Frame(length) => length,
                Transmission::Nothing => return false,
                Transmission::Enough => return true,
            };
            let frame = frame.get(..length).unwrap_or_default();
            let now = rdtsc();
            let targets = self.switch.lock().forward(from, frame, now);
            for to in targets {
                self.deliver(to, frame);
            }
            if now >= end {
                break;
            }
        }
        true
    }

    fn deliver(&self, to: PortId, frame: &[u8]) {
        let Some(Card { vm, nic }) = self.cards.get(usize::from(to.0)) else {
            return;
        };
        // A parked VM takes no frame: what was sealed of it stays sealed.
        if vm.wanted() != Wanted::Run {
            self.switch.lock().refused(to);
            return;
        }
        let patience = rdtsc().saturating_add(ticks(BATCH_MS) / WAITS_A_BATCH);
        let received = loop {
            if let Some(mut devices) = vm.devices.try_lock() {
                break devices.receive(*nic, frame, &mut VmBus(vm));
            }
            if rdtsc() >= patience {
                break false;
            }
            core::hint::spin_loop();
        };
        let mut switch = self.switch.lock();
        if received {
            switch.delivered(to, frame.len());
        } else {
            switch.refused(to);
        }
    }
}
