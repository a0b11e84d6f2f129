//! Ethernet addresses (IEEE 802, "Universal addresses" and "Local addresses").

use core::fmt;
use core::str::FromStr;

/// A 48-bit Ethernet address, as its bytes travel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// The first byte of derived addresses: locally administered, of one station.
const DERIVED_FIRST_BYTE: u8 = 0x52;
/// In the first byte: the address names a group, not a station.
const GROUP: u8 = 1 << 0;

impl Mac {
    /// Everybody.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// The address of a NIC for which the manifest names none: a hash of the VM's name and the NIC's number, so that
    /// it stays when other VMs come and go.
    #[must_use]
    pub fn derive(vm_name: &str, nic: u32) -> Self {
        // FNV-1a. The zero byte keeps ("a", ..) and ("a\u{1}", ..) apart.
        let bytes = vm_name.bytes().chain([0]).chain(nic.to_le_bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        // FNV leaves the last bytes poorly spread; folding through a multiplication (SplitMix64) spreads them.
        let hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let [a, b, c, d, e, ..] = hash.to_be_bytes();
        Self([DERIVED_FIRST_BYTE, a, b, c, d, e])
    }

    /// Whether this is a group's address: multicast or broadcast.
    #[inline]
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & GROUP != 0
    }

    /// Whether a station may have this address: it is not a group's, and not the null address.
    #[inline]
    #[must_use]
    pub const fn is_station(self) -> bool {
        !self.is_group() && !matches!(self.0, [0, 0, 0, 0, 0, 0])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not an Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAMac;

impl fmt::Display for NotAMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an Ethernet address; write six pairs of hexadecimal digits, as in 52:00:00:12:34:56")
    }
}

impl core::error::Error for NotAMac {}

impl FromStr for Mac {
    type Err = NotAMac;

    fn from_str(text: &str) -> Result<Self, NotAMac> {
        let mut mac = [0; 6];
        let mut groups = text.split(':');
        for byte in &mut mac {
            let group = groups.next().ok_or(NotAMac)?;
            // `from_str_radix` would take a sign.
            if group.len() != 2 || !group.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(NotAMac);
            }
            *byte = u8::from_str_radix(group, 16).map_err(|_| NotAMac)?;
        }
        match groups.next() {
            None => Ok(Self(mac)),
            Some(_) => Err(NotAMac),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn derived_addresses_are_local_stations_and_differ() {
        let mut seen = HashSet::new();
        for vm in 0..1000 {
            for nic in 0..8 {
                let mac = Mac::derive(&format!("vm{vm}"), nic);
                assert!(mac.is_station());
                assert_eq!(mac.0[0] & 2, 2, "{mac} is locally administered");
                assert!(seen.insert(mac), "{mac}");
            }
        }
    }

    #[test]
    fn derived_address_is_stable() {
        // A changed address would make guests rename their interfaces after an update of the hypervisor.
        assert_eq!(Mac::derive("debian-a", 0).to_string(), "52:64:8b:39:6d:9a");
    }

    #[test]
    fn text_and_address_agree() {
        let mac = Mac([0x52, 0, 0xab, 0xcd, 0xef, 9]);
        assert_eq!(mac.to_string(), "52:00:ab:cd:ef:09");
        assert_eq!("52:00:AB:cd:ef:09".parse(), Ok(mac));
        for wrong in [
            "",
            "52",
            "52:00:ab:cd:ef",
            "52:00:ab:cd:ef:09:",
            "52:00:ab:cd:ef:+9",
            "52:00:ab:cd:ef:9",
            "52-00-ab-cd-ef-09",
            "52:00:ab:cd:ef:é",
        ] {
            assert_eq!(wrong.parse::<Mac>(), Err(NotAMac), "{wrong}");
        }
    }

    #[test]
    fn groups_and_the_null_address_are_no_stations() {
        assert!(Mac::BROADCAST.is_group());
        assert!(!Mac([0x01, 0, 0x5e, 0, 0, 1]).is_station());
        assert!(!Mac([0; 6]).is_station());
        assert!(Mac([0, 0, 0, 0, 0, 1]).is_station());
    }
}
