//! What a device or an I/O APIC is programmed with to raise a remapped interrupt.
//!
//! See Intel VT-d, "Interrupt Requests in Remappable Format" and "I/O xAPIC Programming".

use super::entry::Trigger;

/// An MSI message in the remappable format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// The address the device writes to.
    pub address: u32,
    /// What it writes; a device with several messages replaces the low bits by the message's number.
    pub data: u32,
}

const MSI_BASE: u32 = 0xfee0_0000;
const MSI_REMAPPABLE: u32 = 1 << 4;
/// The data holds a number that is added to the handle.
const MSI_SUBHANDLE: u32 = 1 << 3;

impl Message {
    /// The message that raises the interrupt at `index`, or for a device with several messages the ones from there on.
    #[must_use]
    pub const fn new(index: u16, several: bool) -> Self {
        let low = (index as u32 & 0x7fff) << 5;
        let high = (index as u32 >> 15) << 2;
        let sub = if several { MSI_SUBHANDLE } else { 0 };
        Self {
            address: MSI_BASE | low | high | MSI_REMAPPABLE | sub,
            data: 0,
        }
    }

    /// The index that a write would raise, or `None` where it is no remappable interrupt.
    #[must_use]
    pub const fn index(self) -> Option<u16> {
        if self.address & 0xfff0_0000 != MSI_BASE || self.address & MSI_REMAPPABLE == 0 {
            return None;
        }
        let handle = (self.address >> 5 & 0x7fff | (self.address >> 2 & 1) << 15) as u16;
        if self.address & MSI_SUBHANDLE == 0 {
            Some(handle)
        } else {
            handle.checked_add(self.data as u16)
        }
    }
}

/// How an I/O APIC's pin is wired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pin {
    /// Edge or level.
    pub trigger: Trigger,
    /// Whether low means asserted.
    pub active_low: bool,
    /// Whether it is masked.
    pub masked: bool,
}

impl Pin {
    const ACTIVE_LOW: u64 = 1 << 13;
    const LEVEL: u64 = 1 << 15;
    const MASKED: u64 = 1 << 16;
    const REMAPPABLE: u64 = 1 << 48;

    /// The redirection entry that raises the interrupt at `index`. The vector is that of the remapping entry: a level's end of
    /// interrupt is matched by it.
    #[must_use]
    pub const fn redirection(self, index: u16, vector: u8) -> u64 {
        let mut entry = vector as u64
            | (index as u64 >> 15) << 11
            | Self::REMAPPABLE
            | (index as u64 & 0x7fff) << 49;
        if self.active_low {
            entry |= Self::ACTIVE_LOW;
        }
        if matches!(self.trigger, Trigger::Level) {
            entry |= Self::LEVEL;
        }
        if self.masked {
            entry |= Self::MASKED;
        }
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_match_the_manual() {
        let one = Message::new(0x8123, false);
        assert_eq!((one.address, one.data), (0xfee0_2474, 0));
        assert_eq!(Message::new(1, true).address, 0xfee0_0038);
    }

    #[test]
    fn every_index_survives_the_message() {
        for index in 0..=u16::MAX {
            assert_eq!(Message::new(index, false).index(), Some(index));
        }
        let second = Message {
            data: 3,
            ..Message::new(0x10, true)
        };
        assert_eq!(second.index(), Some(0x13));
    }

    #[test]
    fn compatibility_format_has_no_index() {
        let forged = Message {
            address: 0xfee0_1000,
            data: 0x30,
        };
        assert_eq!(forged.index(), None);
        assert_eq!(
            Message {
                address: 0x10,
                data: 0
            }
            .index(),
            None
        );
    }

    #[test]
    fn redirection_entries_match_the_manual() {
        let pin = Pin {
            trigger: Trigger::Level,
            active_low: true,
            masked: true,
        };
        assert_eq!(pin.redirection(0x8005, 0x41), 0x000b_0000_0001_a841);
        let pin = Pin {
            trigger: Trigger::Edge,
            active_low: false,
            masked: false,
        };
        assert_eq!(pin.redirection(2, 0x42), 0x0005_0000_0000_0042);
    }
}
