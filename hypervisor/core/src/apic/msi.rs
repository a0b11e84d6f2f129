//! Message-signalled interrupts: what a write to the interrupt window means, and who gets it
//! (Intel SDM vol. 3A, "Message Signalled Interrupts").
//!
//! Destinations are compared with the vCPUs there are; nothing is indexed by them.

use super::icr::FIRST_LEGAL_VECTOR;
use super::{Delivery, Destination, Trigger};
use crate::bus::{Signal, Signals};
use crate::platform::LAPIC_BASE;

/// The part of an address that makes a write an interrupt.
const WINDOW_MASK: u64 = !0xf_ffff;

bitflags::bitflags! {
    /// The message address (Intel SDM vol. 3A, "Message Address Register Format").
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Address: u64 {
        const LOGICAL = 1 << 2;
        const REDIRECTION_HINT = 1 << 3;
        const DESTINATION = 0xff << 12;
    }

    /// The message data (Intel SDM vol. 3A, "Message Data Register Format").
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Data: u32 {
        const VECTOR = 0xff;
        const DELIVERY = 7 << 8;
        const ASSERT = 1 << 14;
        const LEVEL = 1 << 15;
    }
}

/// An interrupt message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// Where to.
    pub destination: Destination,
    /// What, with its vector.
    pub delivery: Delivery,
    /// How it is signalled.
    pub trigger: Trigger,
}

impl Message {
    /// What a device's write of `data` to `address` sends; `None` where that is no interrupt that a VM's device may send:
    /// an address outside the interrupt window, a reserved vector, SMI, INIT, external interrupts, a level taken back.
    #[must_use]
    pub fn decode(address: u64, data: u32) -> Option<Self> {
        if address & WINDOW_MASK != LAPIC_BASE.0 {
            return None;
        }
        let address = Address::from_bits_truncate(address);
        let data = Data::from_bits_truncate(data);
        let trigger = match (data.contains(Data::LEVEL), data.contains(Data::ASSERT)) {
            (false, _) => Trigger::Edge,
            (true, true) => Trigger::Level,
            (true, false) => return None,
        };
        let vector = (data & Data::VECTOR).bits() as u8;
        let mode = (data & Data::DELIVERY).bits() >> 8;
        let delivery = match mode {
            0 | 1 if vector < FIRST_LEGAL_VECTOR => return None,
            // The redirection hint asks for one processor of several, as lowest priority does.
            0 if !address.contains(Address::REDIRECTION_HINT) => Delivery::Fixed(vector),
            0 | 1 => Delivery::LowestPriority(vector),
            4 => Delivery::Nmi,
            _ => return None,
        };
        let raw = ((address & Address::DESTINATION).bits() >> 12) as u8;
        // 0xff is the 8-bit form of the broadcast identifier.
        let id = if raw == u8::MAX { u32::MAX } else { raw.into() };
        // The manual ignores the destination mode without the hint; processors do not, and systems rely on that.
        let destination = Destination::new(id, address.contains(Address::LOGICAL));
        Some(Self {
            destination,
            delivery,
            trigger,
        })
    }

    /// Signals every vCPU that is selected; for lowest priority the first of them.
    pub fn send(self, signals: &mut (impl Signals + ?Sized)) {
        let interrupt = |vector| Signal::Interrupt {
            vector,
            trigger: self.trigger,
        };
        let (signal, limit) = match self.delivery {
            Delivery::Fixed(vector) => (interrupt(vector), usize::MAX),
            Delivery::LowestPriority(vector) => (interrupt(vector), 1),
            Delivery::Nmi => (Signal::Nmi, usize::MAX),
            Delivery::Init => (Signal::Init, usize::MAX),
            Delivery::Startup(page) => (Signal::Startup(page), usize::MAX),
        };
        // A device is no vCPU: "everyone else" leaves nobody out.
        let sender = u32::MAX;
        (0..signals.vcpus())
            .filter(|vcpu| self.destination.selects(*vcpu, sender))
            .take(limit)
            .for_each(|vcpu| signals.signal(vcpu, signal));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Cpus(Vec<Vec<Signal>>);

    impl Signals for Cpus {
        fn vcpus(&self) -> u32 {
            self.0.len() as u32
        }

        fn signal(&mut self, to: u32, signal: Signal) {
            self.0[to as usize].push(signal);
        }
    }

    fn reached(address: u64, data: u32) -> Vec<usize> {
        let mut cpus = Cpus(vec![Vec::new(); 20]);
        if let Some(message) = Message::decode(address, data) {
            message.send(&mut cpus);
        }
        (0..20).filter(|cpu| !cpus.0[*cpu].is_empty()).collect()
    }

    fn edge(vector: u8) -> Signal {
        Signal::Interrupt {
            vector,
            trigger: Trigger::Edge,
        }
    }

    #[test]
    fn fixed_message_reaches_the_processor_it_names() {
        let message = Message::decode(0xfee0_3000, 0x4041).unwrap();
        assert_eq!(message.destination, Destination::Physical(3));
        assert_eq!(message.delivery, Delivery::Fixed(0x41));
        let mut cpus = Cpus(vec![Vec::new(); 4]);
        message.send(&mut cpus);
        assert_eq!(cpus.0[3], [edge(0x41)]);
        assert!(cpus.0[..3].iter().all(Vec::is_empty));
    }

    #[test]
    fn broadcast_and_logical_destinations_reach_all_they_select() {
        assert_eq!(reached(0xfeef_f000, 0x41), (0..20).collect::<Vec<_>>());
        assert_eq!(reached(0xfee0_5004, 0x41), [0, 2]);
        assert_eq!(reached(0xfee0_5000, 0x41), [5]);
    }

    #[test]
    fn lowest_priority_and_the_redirection_hint_reach_one() {
        assert_eq!(reached(0xfee0_6004, 0x141), [1]);
        assert_eq!(reached(0xfee0_600c, 0x41), [1]);
        assert_eq!(reached(0xfeef_f008, 0x41), [0]);
    }

    #[test]
    fn nobody_is_reached_by_an_identifier_that_no_vcpu_has() {
        assert_eq!(reached(0xfee1_4000, 0x41), [0; 0]);
        assert_eq!(reached(0xfeef_e000, 0x41), [0; 0]);
    }

    #[test]
    fn nmi_needs_no_vector() {
        let message = Message::decode(0xfee0_1000, 0x400).unwrap();
        let mut cpus = Cpus(vec![Vec::new(); 2]);
        message.send(&mut cpus);
        assert_eq!(cpus.0, [vec![], vec![Signal::Nmi]]);
    }

    #[test]
    fn what_a_device_may_not_send_is_refused() {
        for data in [0x241, 0x341, 0x541, 0x641, 0x741, 0x00f, 0x10f, 0x8041] {
            assert_eq!(Message::decode(0xfee0_0000, data), None, "{data:#x}");
        }
        for address in [0, 0xfed0_0000, 0xfef0_0000, 0x1_fee0_0000, u64::MAX] {
            assert_eq!(Message::decode(address, 0x41), None, "{address:#x}");
        }
    }

    #[test]
    fn level_is_kept() {
        let message = Message::decode(0xfee0_0000, 0xc041).unwrap();
        assert_eq!(message.trigger, Trigger::Level);
    }
}
