//! The message that a guest has its device send.

use crate::apic::Delivery;
use crate::apic::msi::Message;
use crate::bus::Signals;

/// Bits of the address below the interrupt window's number.
const ADDRESS_BITS: u64 = 0xf_ffff;
/// The interrupt window.
const WINDOW: u64 = 0xfee0_0000;
const DATA_BITS: u32 = 16;

/// A message that is an interrupt for vCPUs, checked. NMIs are not among them: a VM whose vCPUs all wait with interrupts
/// off is over, and a device that could still wake it would have to be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestMessage {
    /// The low 20 bits of the address.
    address: u32,
    data: u16,
}

impl GuestMessage {
    /// What a device's write of `data` to `address` would send; `None` where a guest may not have that sent.
    #[must_use]
    pub fn new(address: u64, data: u32) -> Option<Self> {
        let message = Message::decode(address, data)?;
        match message.delivery {
            Delivery::Fixed(_) | Delivery::LowestPriority(_) => Some(Self {
                address: (address & ADDRESS_BITS) as u32,
                data: data as u16,
            }),
            _ => None,
        }
    }

    /// Who gets it, and what. It was decoded before.
    fn decode(self) -> Option<Message> {
        Message::decode(WINDOW | u64::from(self.address), self.data.into())
    }

    /// The first vCPU of `vcpus` that gets it.
    #[must_use]
    pub fn first(self, vcpus: u32) -> Option<u32> {
        let destination = self.decode()?.destination;
        // A device is no vCPU: "everyone else" leaves nobody out.
        (0..vcpus).find(|vcpu| destination.selects(*vcpu, u32::MAX))
    }

    /// Signals every vCPU that gets it.
    pub fn send(self, signals: &mut (impl Signals + ?Sized)) {
        if let Some(message) = self.decode() {
            message.send(signals);
        }
    }

    /// All of it, in the low 36 bits.
    pub(super) fn bits(self) -> u64 {
        u64::from(self.address) << DATA_BITS | u64::from(self.data)
    }

    /// What [`bits`](Self::bits) gave.
    pub(super) const fn from_bits(bits: u64) -> Self {
        Self {
            address: (bits >> DATA_BITS & ADDRESS_BITS) as u32,
            data: bits as u16,
        }
    }
}
