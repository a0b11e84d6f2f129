//! Where a key id stands in a physical address: above every bit that is one.

use crate::addr::{FRAME_SIZE, Frame, Hpa};

/// The number of a key in the memory controllers. 0 is the machine's own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HardwareKeyId(u16);

impl HardwareKeyId {
    /// The id with this number; `None` for the machine's own key, which is nobody's.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        match number {
            0 => None,
            _ => Some(Self(number)),
        }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// The bits of an address that are a key id. Only these, and those above them, are ever part of a [`KeyTag`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyField {
    /// The lowest of them. Page offset and memory lie below.
    shift: u8,
    /// How many.
    bits: u8,
}

const FRAME_SHIFT: u32 = FRAME_SIZE.trailing_zeros();

impl KeyField {
    /// The widest address (Intel SDM vol. 3A, "Enumeration of Paging Features by CPUID", MAXPHYADDR).
    pub(super) const MAX_PHYSICAL_BITS: u32 = 52;

    /// No bits: every address is under the machine's own key.
    pub const NONE: Self = Self {
        shift: Self::MAX_PHYSICAL_BITS as u8,
        bits: 0,
    };

    /// `bits` bits from `shift` on; `None` unless they leave 4 GiB below, where devices and start-up code are, and fit into an address.
    #[must_use]
    pub const fn new(shift: u32, bits: u32) -> Option<Self> {
        if shift < 32 || bits == 0 || bits > 15 || shift + bits > Self::MAX_PHYSICAL_BITS {
            return None;
        }
        Some(Self {
            shift: shift as u8,
            bits: bits as u8,
        })
    }

    /// The lowest bit, counted in an address.
    #[must_use]
    pub const fn shift(self) -> u32 {
        self.shift as u32
    }

    /// How many bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.bits as u32
    }

    /// The highest id that fits.
    #[must_use]
    pub const fn last_id(self) -> u16 {
        (1 << self.bits) - 1
    }

    /// The first address that is none, because it has a bit of a key id set.
    #[must_use]
    pub const fn end_of_memory(self) -> Hpa {
        Hpa(1 << self.shift)
    }

    /// What is to be set in a frame's number for `id`; `None` where the id does not fit.
    #[must_use]
    pub const fn tag(self, id: HardwareKeyId) -> Option<KeyTag> {
        if id.0 > self.last_id() {
            return None;
        }
        Some(KeyTag((id.0 as u64) << self.frame_shift()))
    }

    /// Undoes [`KeyTag::on`]: the frame, and the key that it is under.
    #[must_use]
    pub const fn split(self, tagged: Frame) -> (Frame, KeyTag) {
        let mask = (self.last_id() as u64) << self.frame_shift();
        (Frame(tagged.0 & !mask), KeyTag(tagged.0 & mask))
    }

    /// Every bit of an address from the lowest key bit up.
    pub(super) const fn bits_from_shift_up(self) -> u64 {
        u64::MAX << self.shift
    }

    const fn frame_shift(self) -> u32 {
        self.shift as u32 - FRAME_SHIFT
    }
}

/// A key id where it stands in a frame's number. There is none but for a [`KeyField`] with all memory below it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct KeyTag(u64);

impl KeyTag {
    /// The machine's own key, under which everything is that belongs to no VM with a key.
    pub const NONE: Self = Self(0);

    /// The number of `frame` under this key, for an entry of a page table.
    #[must_use]
    pub const fn on(self, frame: Frame) -> Frame {
        Frame(frame.0 | self.0)
    }

    /// Whether it names a VM's key.
    #[must_use]
    pub const fn is_key(self) -> bool {
        self.0 != 0
    }
}
