//! MSI-X: the vector table, what waits behind masks, and the messages that leave (PCI Local Bus Specification 3.0,
//! "MSI-X Capability and Table Structures").

use crate::apic::msi::Message;
use crate::bus::Signals;

/// The most vectors a function here has.
pub const MAX_VECTORS: usize = 8;
/// Bytes of a table entry.
const ENTRY_BYTES: u64 = 16;
/// The vector control's only bit: masked.
const MASKED: u32 = 1;

#[derive(Clone, Copy, Debug)]
struct Vector {
    address: u64,
    data: u32,
    control: u32,
}

/// The vector table of one function and its pending bits.
#[derive(Clone, Debug)]
pub struct Msix {
    vectors: [Vector; MAX_VECTORS],
    count: usize,
    /// Bit n: vector n was raised while it could not be sent.
    pending: u64,
    /// MSI-X enable of the message control register.
    enabled: bool,
    /// Messages may leave: enabled, not masked as a whole, and the function may write to memory.
    open: bool,
}

impl Msix {
    /// A table of `count` masked vectors, at most [`MAX_VECTORS`].
    #[must_use]
    pub fn new(count: usize) -> Self {
        let masked = Vector {
            address: 0,
            data: 0,
            control: MASKED,
        };
        Self {
            vectors: [masked; MAX_VECTORS],
            count: count.min(MAX_VECTORS),
            pending: 0,
            enabled: false,
            open: false,
        }
    }

    /// How many vectors there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Whether the driver uses MSI-X.
    #[must_use]
    pub const fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The function's registers say: MSI-X is `enabled`, all vectors are `masked`, memory may be written (`master`).
    /// What waited and may leave now does.
    pub fn set_control(
        &mut self,
        enabled: bool,
        masked: bool,
        master: bool,
        signals: &mut (impl Signals + ?Sized),
    ) {
        self.enabled = enabled;
        self.open = enabled && !masked && master;
        if !enabled {
            self.pending = 0;
        }
        self.send_pending(signals);
    }

    /// Raises `vector`; one that the function has not is nobody's.
    pub fn raise(&mut self, vector: u16, signals: &mut (impl Signals + ?Sized)) {
        if !self.enabled || usize::from(vector) >= self.count {
            return;
        }
        self.pending |= 1 << vector;
        self.send_pending(signals);
    }

    fn send_pending(&mut self, signals: &mut (impl Signals + ?Sized)) {
        if !self.open || self.pending == 0 {
            return;
        }
        for (number, vector) in self.vectors.iter().enumerate() {
            let bit = 1 << number;
            if self.pending & bit == 0 || vector.control & MASKED != 0 {
                continue;
            }
            self.pending &= !bit;
            if let Some(message) = Message::decode(vector.address, vector.data) {
                message.send(signals);
            }
        }
    }

    /// Reads 4 or 8 aligned bytes of the table; anything else is undefined, and reads as zero.
    #[must_use]
    pub fn read(&self, offset: u64, size: u8) -> u64 {
        match (size, offset % 8) {
            (4, 0 | 4) => self.word(offset).into(),
            (8, 0) => u64::from(self.word(offset)) | u64::from(self.word(offset + 4)) << 32,
            _ => 0,
        }
    }

    fn word(&self, offset: u64) -> u32 {
        let Some(vector) = self.vector_at(offset) else {
            return 0;
        };
        match offset % ENTRY_BYTES {
            0 => vector.address as u32,
            4 => (vector.address >> 32) as u32,
            8 => vector.data,
            _ => vector.control,
        }
    }

    fn vector_at(&self, offset: u64) -> Option<&Vector> {
        let number = usize::try_from(offset / ENTRY_BYTES).ok()?;
        self.vectors.get(..self.count)?.get(number)
    }

    /// Writes 4 or 8 aligned bytes of the table; anything else is undefined, and ignored.
    pub fn write(
        &mut self,
        offset: u64,
        size: u8,
        value: u64,
        signals: &mut (impl Signals + ?Sized),
    ) {
        match (size, offset % 8) {
            (4, 0 | 4) => self.set_word(offset, value as u32),
            (8, 0) => {
                self.set_word(offset, value as u32);
                self.set_word(offset + 4, (value >> 32) as u32);
            }
            _ => return,
        }
        self.send_pending(signals);
    }

    fn set_word(&mut self, offset: u64, value: u32) {
        let number = usize::try_from(offset / ENTRY_BYTES).unwrap_or(usize::MAX);
        let count = self.count;
        let Some(vector) = self
            .vectors
            .get_mut(..count)
            .and_then(|vectors| vectors.get_mut(number))
        else {
            return;
        };
        match offset % ENTRY_BYTES {
            0 => vector.address = vector.address & !0xffff_ffff | u64::from(value & !3),
            4 => vector.address = vector.address & 0xffff_ffff | u64::from(value) << 32,
            8 => vector.data = value,
            _ => vector.control = value & MASKED,
        }
    }

    /// Reads 4 or 8 aligned bytes of the pending bits.
    #[must_use]
    pub const fn read_pending(&self, offset: u64, size: u8) -> u64 {
        match (offset, size) {
            (0, 4) => self.pending & 0xffff_ffff,
            (0, 8) => self.pending,
            _ => 0,
        }
    }
}
