//! A configuration space that remembers which bits can be written, and what a function puts into one.

use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use super::super::access::{ConfigAccess, Extent, Width};
use super::super::address::Address;
use super::super::capability::Acs;
use super::super::register;
use super::at;

/// One function's registers.
#[derive(Clone)]
pub struct Space {
    pub bytes: Vec<u8>,
    writable: Vec<u8>,
    extended: bool,
    /// Where the next capability's place is to be written.
    last: usize,
    /// Where the next extended capability goes.
    next_extended: usize,
}

/// The functions of a machine.
#[derive(Clone, Default)]
pub struct Fake {
    pub functions: BTreeMap<Address, Space>,
}

impl Fake {
    pub fn with(mut self, place: &str, space: Space) -> Self {
        self.functions.insert(at(place), space);
        self
    }
}

impl Space {
    /// A function of vendor and device `id` (the vendor in the upper half) and `class`.
    pub fn new(id: u32, class: u32) -> Self {
        let mut space = Self {
            bytes: vec![0; 4096],
            writable: vec![0; 4096],
            extended: false,
            last: register::CAPABILITIES.into(),
            next_extended: 0x100,
        };
        space.put(0, &id.rotate_left(16).to_le_bytes());
        space.put(register::REVISION.into(), &(class << 8 | 1).to_le_bytes());
        // Everything decodes and masters, as firmware leaves it.
        space.put(register::COMMAND.into(), &7_u16.to_le_bytes());
        space.allow(register::COMMAND.into(), &0x0407_u16.to_le_bytes());
        space
    }

    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn allow(&mut self, at: usize, mask: &[u8]) {
        self.writable[at..at + mask.len()].copy_from_slice(mask);
    }

    /// A bridge that says these buses are behind it.
    pub fn bridge(id: u32, secondary: u8, subordinate: u8) -> Self {
        let mut space = Self::new(id, 0x06_0400);
        space.bytes[usize::from(register::HEADER_TYPE)] = 1;
        space.put(
            register::BUS_NUMBERS.into(),
            &[0, secondary, subordinate, 0],
        );
        space
    }

    pub fn several(mut self) -> Self {
        self.bytes[usize::from(register::HEADER_TYPE)] |= register::MULTI_FUNCTION;
        self
    }

    /// The base address `index`: `low` says kind and place.
    pub fn bar(mut self, index: usize, low: u32, size: u32) -> Self {
        let at = 0x10 + 4 * index;
        self.put(at, &low.to_le_bytes());
        self.allow(at, &(!(size - 1)).to_le_bytes());
        self
    }

    /// A 64-bit base address.
    pub fn bar64(mut self, index: usize, base: u64, size: u64) -> Self {
        let at = 0x10 + 4 * index;
        self.put(at, &(base | 0b1100).to_le_bytes());
        self.allow(at, &(!(size - 1)).to_le_bytes());
        self
    }

    pub fn rom(mut self, base: u32, size: u32) -> Self {
        self.put(register::ROM.into(), &base.to_le_bytes());
        self.allow(register::ROM.into(), &(!(size - 1) | 1).to_le_bytes());
        self
    }

    /// A capability with what follows its header of two bytes.
    pub fn capability(mut self, at: u8, id: u8, body: &[u8]) -> Self {
        let last = self.last;
        self.put(last, &[at]);
        self.put(at.into(), &[id, 0]);
        self.put(usize::from(at) + 2, body);
        self.last = usize::from(at) + 1;
        self.put(
            register::STATUS.into(),
            &register::HAS_CAPABILITIES.to_le_bytes(),
        );
        self
    }

    /// The PCI Express capability, of version 2 where that has room, with or without a reset of its own.
    pub fn express(mut self, at: u8, port: u16, reset: bool) -> Self {
        let version = if at > 0xc4 { 1 } else { 2 };
        let [a, b] = (version | port << 4).to_le_bytes();
        let [c, d, e, f] = (u32::from(reset) << 28 | 0x8002).to_le_bytes();
        self.extended = true;
        self.capability(at, 0x10, &[a, b, c, d, e, f, 0, 0, 0, 0])
    }

    /// MSI-X with `vectors`, the table and the pending bits as their registers have them.
    pub fn msix(self, at: u8, vectors: u16, table: u32, pending: u32) -> Self {
        let mut body = (vectors - 1).to_le_bytes().to_vec();
        body.extend(table.to_le_bytes());
        body.extend(pending.to_le_bytes());
        self.capability(at, 0x11, &body)
    }

    pub fn extended(mut self, id: u16, body: &[u8]) -> Self {
        let at = self.next_extended;
        let next = at + (4 + body.len()).next_multiple_of(16);
        // The one before leads here; the last leads nowhere.
        if at > 0x100 {
            let before = (0x100..at)
                .step_by(4)
                .rfind(|place| self.is_extended_header(*place))
                .unwrap();
            let link = (at as u16) << 4 | u16::from(self.bytes[before + 2] & 0xf);
            self.put(before + 2, &link.to_le_bytes());
        }
        self.put(at, &(u32::from(id) | 1 << 16).to_le_bytes());
        self.put(at + 4, body);
        self.next_extended = next;
        self.extended = true;
        self
    }

    /// Whether the last link so far, followed from the start, comes by `place`.
    fn is_extended_header(&self, place: usize) -> bool {
        let mut at = 0x100;
        while at != 0 {
            if at == place {
                return true;
            }
            at = usize::from(u16::from_le_bytes([self.bytes[at + 2], self.bytes[at + 3]]) >> 4);
        }
        false
    }

    pub fn acs(self, bits: Acs) -> Self {
        let [low, high] = bits.bits().to_le_bytes();
        self.extended(0x0d, &[low, high, 0, 0])
    }

    pub fn command(&self) -> u16 {
        u16::from_le_bytes([self.bytes[4], self.bytes[5]])
    }
}

impl ConfigAccess for Fake {
    fn extent(&self, function: Address) -> Extent {
        match self.functions.get(&function) {
            Some(space) if space.extended => Extent::Extended,
            _ => Extent::Legacy,
        }
    }

    fn read(&mut self, function: Address, at: u16, width: Width) -> u32 {
        let bytes = check(self.extent(function), at, width);
        let ones = u32::MAX >> (32 - 8 * bytes);
        let Some(space) = self.functions.get(&function) else {
            return ones;
        };
        let at = usize::from(at);
        let mut value = [0; 4];
        value[..bytes].copy_from_slice(&space.bytes[at..at + bytes]);
        u32::from_le_bytes(value)
    }

    fn write(&mut self, function: Address, at: u16, width: Width, value: u32) {
        let bytes = check(self.extent(function), at, width);
        let Some(space) = self.functions.get_mut(&function) else {
            return;
        };
        let at = usize::from(at);
        let decoding = space.command() & 3 != 0;
        let sizing = (0x10..0x28).contains(&at) && space.writable[at..at + bytes] != [0; 4];
        assert!(
            !(decoding && sizing),
            "{function}: a base address moves while it decodes"
        );
        for (n, byte) in value.to_le_bytes().into_iter().take(bytes).enumerate() {
            let mask = space.writable[at + n];
            space.bytes[at + n] = space.bytes[at + n] & !mask | byte & mask;
        }
    }
}

/// The bytes of an access, which keeps to the contract.
fn check(extent: Extent, at: u16, width: Width) -> usize {
    let bytes = match width {
        Width::Byte => 1,
        Width::Word => 2,
        Width::Dword => 4,
    };
    let end = match extent {
        Extent::Legacy => 256,
        Extent::Extended => 4096,
    };
    assert!(
        at.is_multiple_of(bytes) && at + bytes <= end,
        "{at:#x}, {width:?}"
    );
    bytes.into()
}
