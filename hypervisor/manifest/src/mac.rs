//! The address of a NIC on its segment.

use core::fmt;

use super::name::VmName;

/// The first three bytes of an address that nobody chose: unicast, locally administered.
const DERIVED_PREFIX: [u8; 3] = [0x52, 0x42, 0x48];
/// The bit of the first byte that makes an address mean a group of stations (IEEE 802, "I/G bit").
const GROUP_BIT: u8 = 1;
/// How many of a derived address's last bits number the NIC within its VM.
const INDEX_BITS: u32 = 3;

/// An EUI-48 that names one station: neither a group nor zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress([u8; 6]);

/// Why a text is not such an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacFault {
    /// Not six pairs of hexadecimal digits with colons between them.
    Form,
    /// The address means every station, or a group of them.
    Group,
    /// The address is zero, which no station has.
    Zero,
}

impl MacAddress {
    /// Reads six pairs of hexadecimal digits with colons between them.
    ///
    /// # Errors
    /// Says which rule `text` breaks.
    pub fn parse(text: &str) -> Result<Self, MacFault> {
        let mut bytes = [0; 6];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            let pair = pairs.next().ok_or(MacFault::Form)?;
            // A number may also begin with a sign.
            if pair.len() != 2 || pair.starts_with('+') {
                return Err(MacFault::Form);
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| MacFault::Form)?;
        }
        if pairs.next().is_some() {
            return Err(MacFault::Form);
        }
        match bytes {
            [first, ..] if first & GROUP_BIT != 0 => Err(MacFault::Group),
            [0, 0, 0, 0, 0, 0] => Err(MacFault::Zero),
            _ => Ok(Self(bytes)),
        }
    }

    /// The address of the NIC `index` of the VM `name` where the manifest gives none: the same on every boot and wherever
    /// in the manifest the VM stands.
    pub(super) fn derive(name: &VmName, index: usize) -> Self {
        // FNV-1a. Two names can meet in what is kept of it; the parser finds that and asks for an address.
        let hash = name.as_str().bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        let index = index as u32 & ((1 << INDEX_BITS) - 1);
        let [_, low @ ..] = ((hash << INDEX_BITS) | index).to_be_bytes();
        let [a, b, c] = DERIVED_PREFIX;
        let [d, e, f] = low;
        Self([a, b, c, d, e, f])
    }

    /// The six bytes, in the order they go over the wire.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }
}

/// In lower-case pairs with colons.
impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MacAddress({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn addresses_read_back_as_they_are_shown() {
        let address = MacAddress::parse("52:54:00:AB:cd:0f").unwrap();
        assert_eq!(address.octets(), [0x52, 0x54, 0, 0xab, 0xcd, 0x0f]);
        assert_eq!(address.to_string(), "52:54:00:ab:cd:0f");
    }

    #[test]
    fn each_rule_has_its_fault() {
        use MacFault::{Form, Group, Zero};
        let cases = [
            ("", Form),
            ("52:54:00:ab:cd", Form),
            ("52:54:00:ab:cd:0f:01", Form),
            ("52:54:00:ab:cd:", Form),
            ("52-54-00-ab-cd-0f", Form),
            ("525400abcd0f", Form),
            ("52:54:00:ab:cd:0g", Form),
            ("52:54:00:ab:cd:+f", Form),
            ("52:54:00:ab:cd:f", Form),
            ("52:54:00:ab:cd:ö", Form),
            ("ff:ff:ff:ff:ff:ff", Group),
            ("01:00:5e:00:00:01", Group),
            ("00:00:00:00:00:00", Zero),
        ];
        for (text, fault) in cases {
            assert_eq!(MacAddress::parse(text), Err(fault), "{text:?}");
        }
    }

    #[test]
    fn derived_addresses_are_sound_and_differ_by_vm_and_nic() {
        let web = VmName::parse("web").unwrap();
        let files = VmName::parse("files").unwrap();
        let addresses = [
            MacAddress::derive(&web, 0),
            MacAddress::derive(&web, 1),
            MacAddress::derive(&files, 0),
        ];
        for (index, address) in addresses.iter().enumerate() {
            assert_eq!(MacAddress::parse(&address.to_string()), Ok(*address));
            assert!(!addresses[..index].contains(address));
        }
        // Whoever keeps leases by address must find them after an update.
        assert_eq!(MacAddress::derive(&web, 0).to_string(), "52:42:48:cd:e4:88");
    }
}
