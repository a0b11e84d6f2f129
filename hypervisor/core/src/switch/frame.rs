//! The few fields of an Ethernet frame that the switch looks at, read from bytes nobody checked.
//!
//! IEEE 802.3, "MAC frame", without preamble and frame check sequence; IEEE 802.1Q, "VLAN tag"; RFC 826 (ARP).

use super::mac::Mac;

/// The shortest frame: both addresses and the type. What would pad it to 60 bytes on a wire carries nothing here.
pub const MIN_FRAME: usize = 14;
/// The longest frame without a VLAN tag: the header and 1500 bytes.
pub const MAX_UNTAGGED_FRAME: usize = 1514;
/// The longest frame, with a VLAN tag.
pub const MAX_FRAME: usize = MAX_UNTAGGED_FRAME + VLAN_TAG;

const VLAN_TAG: usize = 4;
const TYPE_AT: usize = 12;
const TYPE_CUSTOMER_VLAN: u16 = 0x8100;
const TYPE_SERVICE_VLAN: u16 = 0x88a8;
const TYPE_ARP: u16 = 0x0806;
/// Reverse ARP has the layout of ARP.
const TYPE_REVERSE_ARP: u16 = 0x8035;
/// In an ARP packet: the length of hardware addresses, and where the sender's is.
const ARP_HARDWARE_LENGTH_AT: usize = 4;
const ARP_SENDER_AT: usize = 8;

/// A frame of acceptable length, addressed.
#[derive(Clone, Copy)]
pub(super) struct Frame<'a> {
    bytes: &'a [u8],
    pub(super) destination: Mac,
    pub(super) source: Mac,
}

/// What a frame says about its sender beside its source address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SenderClaim {
    /// Nothing.
    None,
    /// An ARP packet: this is the sender's hardware address.
    Arp(Mac),
    /// An ARP packet cut short, or for hardware addresses that are not Ethernet's.
    Malformed,
}

impl<'a> Frame<'a> {
    /// The frame, if its length is one that a wire could carry.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let destination = Mac(*bytes.first_chunk()?);
        let source = Mac(*bytes.get(6..)?.first_chunk()?);
        let longest = if is_vlan(type_at(bytes, TYPE_AT)?) {
            MAX_FRAME
        } else {
            MAX_UNTAGGED_FRAME
        };
        (MIN_FRAME..=longest)
            .contains(&bytes.len())
            .then_some(Self {
                bytes,
                destination,
                source,
            })
    }

    /// What it says about its sender. Any number of VLAN tags is looked behind, for a guest can strip as many.
    pub(super) fn sender_claim(&self) -> SenderClaim {
        let mut at = TYPE_AT;
        let kind = loop {
            match type_at(self.bytes, at) {
                Some(kind) if is_vlan(kind) => at += VLAN_TAG,
                Some(kind) => break kind,
                None => return SenderClaim::Malformed,
            }
        };
        if !matches!(kind, TYPE_ARP | TYPE_REVERSE_ARP) {
            return SenderClaim::None;
        }
        let packet = self.bytes.get(at + 2..).unwrap_or_default();
        let sender = packet.get(ARP_SENDER_AT..).and_then(<[u8]>::first_chunk);
        match (packet.get(ARP_HARDWARE_LENGTH_AT), sender) {
            (Some(6), Some(sender)) => SenderClaim::Arp(Mac(*sender)),
            _ => SenderClaim::Malformed,
        }
    }
}

/// The type field at an offset.
fn type_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|kind| u16::from_be_bytes(*kind))
}

const fn is_vlan(kind: u16) -> bool {
    matches!(kind, TYPE_CUSTOMER_VLAN | TYPE_SERVICE_VLAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: &[u16], body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xff; 6];
        bytes.extend([0x52, 0, 0, 0, 0, 1]);
        for (i, kind) in kind.iter().enumerate() {
            if i > 0 {
                bytes.extend([0, 7]);
            }
            bytes.extend(kind.to_be_bytes());
        }
        bytes.extend(body);
        bytes
    }

    #[test]
    fn lengths_are_those_of_a_wire() {
        let of_length = |kind: u16, len: usize| {
            let mut bytes = frame(&[kind], &[0; 2000]);
            bytes.truncate(len);
            Frame::parse(&bytes).is_some()
        };
        for (kind, longest) in [(0x0800, 1514), (0x8100, 1518), (0x88a8, 1518)] {
            for len in 0..2000 {
                assert_eq!(of_length(kind, len), (14..=longest).contains(&len), "{len}");
            }
        }
    }

    #[test]
    fn arp_sender_is_found_behind_any_number_of_tags() {
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
        let sender = [0x52, 9, 8, 7, 6, 5];
        arp.extend(sender);
        arp.extend([0; 14]);
        for tags in 0..20 {
            for kind in [TYPE_ARP, TYPE_REVERSE_ARP] {
                let mut kinds = vec![TYPE_CUSTOMER_VLAN; tags];
                kinds.push(kind);
                let bytes = frame(&kinds, &arp);
                let claim = Frame::parse(&bytes).unwrap().sender_claim();
                assert_eq!(claim, SenderClaim::Arp(Mac(sender)));
            }
        }
    }

    #[test]
    fn cut_or_foreign_arp_is_malformed() {
        let arp = [0, 1, 8, 0, 6, 4, 0, 1, 1, 2, 3, 4, 5];
        let claim = |body: &[u8]| {
            Frame::parse(&frame(&[TYPE_ARP], body))
                .unwrap()
                .sender_claim()
        };
        for len in 0..=arp.len() {
            assert_eq!(claim(&arp[..len]), SenderClaim::Malformed);
        }
        assert_eq!(
            claim(&[0, 1, 8, 0, 8, 4, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8]),
            SenderClaim::Malformed
        );
    }

    #[test]
    fn other_types_claim_nothing_and_endless_tags_are_malformed() {
        let claim =
            |kinds: &[u16], body: &[u8]| Frame::parse(&frame(kinds, body)).unwrap().sender_claim();
        assert_eq!(claim(&[0x0800], &[]), SenderClaim::None);
        assert_eq!(claim(&[0x8100, 0x86dd], &[]), SenderClaim::None);
        assert_eq!(claim(&[0x8100; 300], &[]), SenderClaim::Malformed);
    }
}
