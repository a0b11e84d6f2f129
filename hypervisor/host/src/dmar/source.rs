//! Who sent a request: the PCI requester id, as remapping units know devices.
//!
//! The firmware's scopes lead to a [`SourceId`]; in the core's `vtd` it selects root and context entries, is verified by
//! interrupt-remapping entries, and named by faults.

use core::fmt;

/// Who sent a request, within a PCI segment: bus, device and function, as the request itself carries them
/// (VT-d specification, "Identifying Origination of DMA Requests").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct SourceId(pub u16);

impl SourceId {
    /// That function, or `None` where a bus has no such device or a device no such function.
    #[must_use]
    pub const fn new(bus: u8, device: u8, function: u8) -> Option<Self> {
        if device >= 32 || function >= 8 {
            return None;
        }
        Some(Self(
            (bus as u16) << 8 | (device as u16) << 3 | function as u16,
        ))
    }

    /// The bus.
    #[must_use]
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// The device on its bus, below 32.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.device_function() >> 3
    }

    /// The function of its device, below 8.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.device_function() & 7
    }

    /// Device and function together, the index into a context table.
    #[must_use]
    pub const fn device_function(self) -> u8 {
        self.0 as u8
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bus, device, function) = (self.bus(), self.device(), self.function());
        write!(f, "{bus:02x}:{device:02x}.{function}")
    }
}

impl fmt::Debug for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_id_is_laid_out_as_requests_carry_it() {
        let id = SourceId::new(0xf0, 0x1f, 7).unwrap();
        assert_eq!(id.0, 0xf0ff);
        assert_eq!((id.bus(), id.device(), id.function()), (0xf0, 0x1f, 7));
        assert_eq!(id.device_function(), 0xff);
        assert_eq!(id.to_string(), "f0:1f.7");
    }

    #[test]
    fn source_id_refuses_what_no_bus_has() {
        assert_eq!(SourceId::new(0, 32, 0), None);
        assert_eq!(SourceId::new(0, 0, 8), None);
    }
}
