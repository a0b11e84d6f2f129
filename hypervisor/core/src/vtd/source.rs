//! Who sent a request: the PCI requester id, as remapping units know devices.
//!
//! [`SourceId`] selects root and context entries ([`super::context`]), is verified by interrupt-remapping
//! entries ([`super::interrupt`]) and named by faults ([`super::fault`]).

use core::fmt;

/// A requester id: bus, device and function.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct SourceId(pub u16);

impl SourceId {
    /// The id of a function, or `None` where device or function are beyond what PCI has.
    #[must_use]
    pub const fn new(bus: u8, device: u8, function: u8) -> Option<Self> {
        if device >= 32 || function >= 8 {
            return None;
        }
        Some(Self(
            (bus as u16) << 8 | (device as u16) << 3 | function as u16,
        ))
    }

    /// Its bus.
    #[must_use]
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Device and function together, the index into a context table.
    #[must_use]
    pub const fn device_function(self) -> u8 {
        self.0 as u8
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let low = self.device_function();
        write!(f, "{:02x}:{:02x}.{}", self.bus(), low >> 3, low & 7)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_like_pci_addresses() {
        let id = SourceId::new(0x3a, 0x1f, 5).unwrap();
        assert_eq!((id.0, id.to_string().as_str()), (0x3afd, "3a:1f.5"));
        assert_eq!((id.bus(), id.device_function()), (0x3a, 0xfd));
        assert_eq!(SourceId::new(0, 32, 0), None);
        assert_eq!(SourceId::new(0, 0, 8), None);
    }
}
