//! The interrupt command register: who a guest's interprocessor interrupt is for, and what it is.
//!
//! Destinations stay guest numbers here: nothing is indexed by them, they are only compared
//! (Intel SDM vol. 3A, "Interrupt Command Register (ICR)" and "ICR Operation in x2APIC Mode").

/// The x2APIC identifier that means every local APIC.
pub const BROADCAST_ID: u32 = u32::MAX;

/// Vectors below this are reserved for exceptions; the APIC refuses them.
pub const FIRST_LEGAL_VECTOR: u8 = 16;

/// Reserved bits of the 64-bit ICR; bit 12 (delivery status in xAPIC mode) is ignored on a write.
const RESERVED: u64 = 0xfff3_2000;

/// Which vCPUs an interrupt is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    /// The one whose x2APIC identifier this is.
    Physical(u32),
    /// Those in the cluster of bits 31:16 whose bit is set in bits 15:0.
    Logical(u32),
    /// All vCPUs.
    Everyone,
    /// All vCPUs but the sender.
    EveryoneElse,
}

impl Destination {
    /// The destination that a raw identifier and the destination-mode bit name.
    #[inline]
    #[must_use]
    pub const fn new(id: u32, logical: bool) -> Self {
        match (id, logical) {
            (BROADCAST_ID, _) => Self::Everyone,
            (_, true) => Self::Logical(id),
            (_, false) => Self::Physical(id),
        }
    }

    /// Whether the vCPU with x2APIC identifier `id` is meant when `sender` sends.
    #[inline]
    #[must_use]
    pub const fn selects(self, id: u32, sender: u32) -> bool {
        match self {
            Self::Physical(wanted) => wanted == id,
            Self::Logical(wanted) => {
                let own = logical_id(id);
                wanted >> 16 == own >> 16 && wanted & own & 0xffff != 0
            }
            Self::Everyone => true,
            Self::EveryoneElse => id != sender,
        }
    }
}

/// The read-only logical identifier of x2APIC mode (Intel SDM vol. 3A, "Deriving Logical x2APIC ID from the Local
/// x2APIC ID").
#[inline]
#[must_use]
pub const fn logical_id(id: u32) -> u32 {
    (id >> 4) << 16 | 1 << (id & 0xf)
}

/// What an interprocessor interrupt does at its destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// The interrupt with this vector, at every destination.
    Fixed(u8),
    /// The interrupt with this vector, at one of the destinations.
    LowestPriority(u8),
    /// A non-maskable interrupt.
    Nmi,
    /// Reset to the wait-for-SIPI state.
    Init,
    /// Start at this 4 KiB page in real mode.
    Startup(u8),
}

/// A valid interprocessor interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IcrRequest {
    /// What to do.
    pub delivery: Delivery,
    /// Where.
    pub destination: Destination,
}

/// What a write to the ICR means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcrWrite {
    /// Send this.
    Send(IcrRequest),
    /// The vector is reserved: nothing is sent, the error status says so.
    IllegalVector,
    /// Nothing to send: INIT level de-assert, SMI (a guest has no SMM), reserved delivery modes.
    Ignored,
    /// Reserved bits were set: #GP.
    Reserved,
}

/// Decodes a 64-bit ICR write by the APIC whose identifier is `own_id`.
#[inline]
#[must_use]
pub const fn decode(value: u64, own_id: u32) -> IcrWrite {
    if value & RESERVED != 0 {
        return IcrWrite::Reserved;
    }
    let vector = value as u8;
    let asserted = value & 1 << 14 != 0;
    let delivery = match value >> 8 & 7 {
        0 if vector < FIRST_LEGAL_VECTOR => return IcrWrite::IllegalVector,
        1 if vector < FIRST_LEGAL_VECTOR => return IcrWrite::IllegalVector,
        0 => Delivery::Fixed(vector),
        1 => Delivery::LowestPriority(vector),
        4 => Delivery::Nmi,
        5 if asserted => Delivery::Init,
        6 => Delivery::Startup(vector),
        _ => return IcrWrite::Ignored,
    };
    let destination = match value >> 18 & 3 {
        0 => Destination::new((value >> 32) as u32, value & 1 << 11 != 0),
        1 => Destination::Physical(own_id),
        2 => Destination::Everyone,
        _ => Destination::EveryoneElse,
    };
    IcrWrite::Send(IcrRequest {
        delivery,
        destination,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(value: u64) -> IcrRequest {
        match decode(value, 3) {
            IcrWrite::Send(request) => request,
            other => panic!("{value:#x} gave {other:?}"),
        }
    }

    #[test]
    fn fixed_physical_names_one_vcpu() {
        let request = sent(7 << 32 | 0x4041);
        assert_eq!(request.delivery, Delivery::Fixed(0x41));
        assert_eq!(request.destination, Destination::Physical(7));
        assert!(request.destination.selects(7, 3) && !request.destination.selects(8, 3));
    }

    #[test]
    fn shorthands_override_the_destination_field() {
        assert_eq!(
            sent(9 << 32 | 1 << 18 | 0x50).destination,
            Destination::Physical(3)
        );
        assert_eq!(
            sent(9 << 32 | 2 << 18 | 0x50).destination,
            Destination::Everyone
        );
        let else_ = sent(9 << 32 | 3 << 18 | 0x50).destination;
        assert!(else_.selects(0, 3) && !else_.selects(3, 3));
    }

    #[test]
    fn logical_destination_matches_cluster_and_bit() {
        let destination = sent(0x0001_0005 << 32 | 1 << 11 | 0x50).destination;
        let chosen: Vec<_> = (0..64).filter(|id| destination.selects(*id, 0)).collect();
        assert_eq!(chosen, [16, 18]);
    }

    #[test]
    fn broadcast_id_means_everyone_in_both_modes() {
        assert_eq!(
            sent(0xffff_ffff << 32 | 0x50).destination,
            Destination::Everyone
        );
        assert_eq!(
            sent(0xffff_ffff << 32 | 1 << 11 | 0x50).destination,
            Destination::Everyone
        );
    }

    #[test]
    fn init_startup_and_nmi_ignore_the_vector_rule() {
        assert_eq!(sent(1 << 32 | 0x4500).delivery, Delivery::Init);
        assert_eq!(sent(1 << 32 | 0x4608).delivery, Delivery::Startup(8));
        assert_eq!(sent(1 << 32 | 0x4400).delivery, Delivery::Nmi);
    }

    #[test]
    fn init_deassert_smi_and_reserved_modes_send_nothing() {
        for value in [0x8500, 0x4200, 0x4341, 0x4741] {
            assert_eq!(decode(value, 0), IcrWrite::Ignored, "{value:#x}");
        }
    }

    #[test]
    fn reserved_bits_fault_and_low_vectors_are_illegal() {
        for bit in [13, 16, 17, 20, 25, 31] {
            assert_eq!(decode(1 << bit | 0x50, 0), IcrWrite::Reserved);
        }
        assert_eq!(decode(0x400f, 0), IcrWrite::IllegalVector);
        assert_eq!(decode(0x410f, 0), IcrWrite::IllegalVector);
    }
}
