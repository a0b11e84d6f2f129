//! Interrupt-remapping entries, bit by bit.
//!
//! See Intel VT-d, "Interrupt Remapping Table Entry (IRTE) for Remapped Interrupts" and "... for Posted Interrupts".

use crate::addr::Hpa;

use super::super::SourceId;
use super::super::capability::InterruptMode;

const PRESENT: u64 = 1 << 0;
const LEVEL: u64 = 1 << 4;
const URGENT: u64 = 1 << 14;
const POSTED: u64 = 1 << 15;
const VECTOR: u32 = 16;
const DESTINATION: u32 = 32;
/// Where an 8-bit APIC id is within the destination.
const XAPIC_ID: u32 = 8;
/// Bits 31:6 of a posted-interrupt descriptor's address are in bits 63:38 of the low word.
const DESCRIPTOR_LOW: u64 = 0xffff_ffc0;

/// The word that says whose interrupt it is: all 16 bits of the requester id are compared (SQ 0, SVT 1).
const fn verified(source: SourceId) -> u64 {
    const VERIFY_WHOLE_ID: u64 = 1 << 18;
    source.0 as u64 | VERIFY_WHOLE_ID
}

/// The two words of an entry; the present bit is in the first.
pub(super) type Words = [u64; 2];

// 256 entries fill a frame.
const _: () = assert!(size_of::<Words>() == 16);

/// How an interrupt is triggered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// By an edge or a message.
    Edge,
    /// By a level, of an I/O APIC's pin.
    Level,
}

/// The processor an interrupt goes to, as a physical APIC id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Destination(u32);

impl Destination {
    /// The processor with this APIC id, or `None` where the table's mode cannot say it. The broadcast ids are no processor.
    #[must_use]
    pub const fn new(apic_id: u32, mode: InterruptMode) -> Option<Self> {
        match mode {
            InterruptMode::Xapic if apic_id < 0xff => Some(Self(apic_id << XAPIC_ID)),
            InterruptMode::X2apic if apic_id < u32::MAX => Some(Self(apic_id)),
            InterruptMode::Xapic | InterruptMode::X2apic => None,
        }
    }
}

/// An interrupt that goes to one processor with a vector: fixed delivery, physical destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Remapped {
    /// The processor.
    pub destination: Destination,
    /// The vector.
    pub vector: u8,
    /// How it is triggered.
    pub trigger: Trigger,
}

impl Remapped {
    pub(super) const fn encode(self, source: SourceId) -> Words {
        let level = match self.trigger {
            Trigger::Edge => 0,
            Trigger::Level => LEVEL,
        };
        let low = PRESENT
            | level
            | (self.vector as u64) << VECTOR
            | (self.destination.0 as u64) << DESTINATION;
        [low, verified(source)]
    }
}

/// An interrupt that is posted to a vCPU's descriptor. Written to the manual; never run on hardware, nor does an emulator
/// have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Posted {
    descriptor: Hpa,
    /// The vector that the vCPU gets.
    pub vector: u8,
    /// Whether the vCPU is notified although notifications are suppressed.
    pub urgent: bool,
}

impl Posted {
    /// Bytes of a posted-interrupt descriptor, and its alignment.
    pub const DESCRIPTOR_BYTES: u64 = 64;

    /// An interrupt to the descriptor at `descriptor`, or `None` where that is not aligned.
    #[must_use]
    pub const fn new(descriptor: Hpa, vector: u8, urgent: bool) -> Option<Self> {
        if !descriptor.is_aligned(Self::DESCRIPTOR_BYTES) {
            return None;
        }
        Some(Self {
            descriptor,
            vector,
            urgent,
        })
    }

    pub(super) const fn encode(self, source: SourceId) -> Words {
        let address = self.descriptor.0;
        let urgent = if self.urgent { URGENT } else { 0 };
        let low = PRESENT
            | POSTED
            | urgent
            | (self.vector as u64) << VECTOR
            | (address & DESCRIPTOR_LOW) << 32;
        [low, verified(source) | address & !0xffff_ffff]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIC: SourceId = SourceId(0x0318);

    #[test]
    fn remapped_entries_match_the_manual() {
        let to = |id, mode| Remapped {
            destination: Destination::new(id, mode).unwrap(),
            vector: 0x45,
            trigger: Trigger::Edge,
        };
        assert_eq!(
            to(7, InterruptMode::Xapic).encode(NIC),
            [0x0000_0700_0045_0001, 0x0000_0000_0004_0318]
        );
        let wide = Remapped {
            trigger: Trigger::Level,
            ..to(0x1_0007, InterruptMode::X2apic)
        };
        assert_eq!(wide.encode(NIC), [0x0001_0007_0045_0011, 0x4_0318]);
    }

    #[test]
    fn ids_that_a_mode_cannot_say_are_no_destination() {
        assert_eq!(Destination::new(0xff, InterruptMode::Xapic), None);
        assert_eq!(Destination::new(0x100, InterruptMode::Xapic), None);
        assert_eq!(Destination::new(u32::MAX, InterruptMode::X2apic), None);
    }

    #[test]
    fn posted_entries_match_the_manual() {
        let posted = Posted::new(Hpa(0x12_3456_7fc0), 0x31, true).unwrap();
        assert_eq!(
            posted.encode(NIC),
            [0x3456_7fc0_0031_c001, 0x0000_0012_0004_0318]
        );
        assert_eq!(Posted::new(Hpa(0x1020), 0x31, false), None);
    }
}
