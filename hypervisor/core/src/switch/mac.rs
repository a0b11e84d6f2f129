//! Ethernet addresses as frames carry them: any 48 bits (IEEE 802, "Universal addresses" and "Local addresses").

use core::fmt;

use crate::manifest::MacAddress;

/// A destination or source as read from a frame; unlike a [`MacAddress`] it need not be a station's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Mac(pub(super) [u8; 6]);

/// In the first byte: the address names a group, not a station.
const GROUP: u8 = 1 << 0;

impl Mac {
    /// Whether a station may have this address: it is not a group's, and not the null address.
    #[inline]
    pub(super) const fn is_station(self) -> bool {
        self.0[0] & GROUP == 0 && !matches!(self.0, [0, 0, 0, 0, 0, 0])
    }
}

impl From<MacAddress> for Mac {
    fn from(address: MacAddress) -> Self {
        Self(address.octets())
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_the_null_address_are_no_stations() {
        assert!(!Mac([0xff; 6]).is_station());
        assert!(!Mac([0x01, 0, 0x5e, 0, 0, 1]).is_station());
        assert!(!Mac([0; 6]).is_station());
        assert!(Mac([0, 0, 0, 0, 0, 1]).is_station());
        assert!(Mac(MacAddress::parse("52:00:00:00:00:00").unwrap().octets()).is_station());
    }
}
