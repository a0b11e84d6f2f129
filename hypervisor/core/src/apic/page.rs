//! The virtual-APIC page: the local APIC's registers at their architectural offsets.
//!
//! The software path and the CPU's APIC virtualisation use the very same page, so a VM can switch between the two
//! (Intel SDM vol. 3C, "Virtual APIC State"; vol. 3A, "Local APIC Register Address Map").

use core::mem::{offset_of, size_of};

/// Number of one 16-byte register slot: the MMIO offset divided by 16, and the x2APIC MSR number minus 0x800.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(transparent)]
pub struct Reg(pub u8);

impl Reg {
    /// Local APIC identifier.
    pub const ID: Self = Self(0x02);
    /// Version and number of LVT entries.
    pub const VERSION: Self = Self(0x03);
    /// Task priority.
    pub const TPR: Self = Self(0x08);
    /// Processor priority.
    pub const PPR: Self = Self(0x0a);
    /// End of interrupt.
    pub const EOI: Self = Self(0x0b);
    /// Logical destination.
    pub const LDR: Self = Self(0x0d);
    /// Spurious-interrupt vector and software enable.
    pub const SVR: Self = Self(0x0f);
    /// First of eight in-service words.
    pub const ISR: Self = Self(0x10);
    /// First of eight trigger-mode words.
    pub const TMR: Self = Self(0x18);
    /// First of eight interrupt-request words.
    pub const IRR: Self = Self(0x20);
    /// Error status.
    pub const ESR: Self = Self(0x28);
    /// Interrupt command; its high half is the next slot of the page.
    pub const ICR: Self = Self(0x30);
    /// High half of the interrupt command; not an MSR of its own.
    pub const ICR_HIGH: Self = Self(0x31);
    /// LVT: timer.
    pub const LVT_TIMER: Self = Self(0x32);
    /// LVT: thermal sensor.
    pub const LVT_THERMAL: Self = Self(0x33);
    /// LVT: performance monitoring.
    pub const LVT_PERFORMANCE: Self = Self(0x34);
    /// LVT: local interrupt pin 0.
    pub const LVT_LINT0: Self = Self(0x35);
    /// LVT: local interrupt pin 1.
    pub const LVT_LINT1: Self = Self(0x36);
    /// LVT: APIC error.
    pub const LVT_ERROR: Self = Self(0x37);
    /// Timer's initial count.
    pub const INITIAL_COUNT: Self = Self(0x38);
    /// Timer's current count.
    pub const CURRENT_COUNT: Self = Self(0x39);
    /// Timer's divide configuration.
    pub const DIVIDE: Self = Self(0x3e);
    /// Self IPI.
    pub const SELF_IPI: Self = Self(0x3f);

    /// The word of a 256-bit register group that holds `vector`'s bit.
    #[inline]
    #[must_use]
    pub const fn word_of(self, vector: u8) -> Self {
        Self(self.0 + (vector >> 5))
    }
}

#[derive(Clone, Debug)]
#[repr(C, align(16))]
struct Slot {
    value: u32,
    reserved: [u32; 3],
}

/// The page. Its host physical address goes into the VMCS when the CPU virtualises the APIC.
#[derive(Clone, Debug)]
#[repr(C, align(4096))]
pub struct VirtualApicPage {
    slots: [Slot; 256],
}

const _: () =
    assert!(size_of::<VirtualApicPage>() == 4096 && align_of::<VirtualApicPage>() == 4096);
const _: () = assert!(offset_of!(VirtualApicPage, slots) == 0 && size_of::<Slot>() == 16);

impl VirtualApicPage {
    /// A page of zeros.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            slots: [const {
                Slot {
                    value: 0,
                    reserved: [0; 3],
                }
            }; 256],
        }
    }

    /// Reads one register.
    #[inline]
    #[must_use]
    pub fn get(&self, reg: Reg) -> u32 {
        self.slots
            .get(usize::from(reg.0))
            .map_or(0, |slot| slot.value)
    }

    /// Writes one register.
    #[inline]
    pub fn set(&mut self, reg: Reg, value: u32) {
        if let Some(slot) = self.slots.get_mut(usize::from(reg.0)) {
            slot.value = value;
        }
    }

    /// Sets `vector`'s bit in the 256-bit group that starts at `group`.
    #[inline]
    pub fn set_bit(&mut self, group: Reg, vector: u8) {
        let word = group.word_of(vector);
        self.set(word, self.get(word) | 1 << (vector & 31));
    }

    /// Clears `vector`'s bit in the 256-bit group that starts at `group`; true where the word is now zero.
    #[inline]
    pub fn clear_bit(&mut self, group: Reg, vector: u8) -> bool {
        let word = group.word_of(vector);
        let value = self.get(word) & !(1 << (vector & 31));
        self.set(word, value);
        value == 0
    }

    /// Whether `vector`'s bit is set in the 256-bit group that starts at `group`.
    #[inline]
    #[must_use]
    pub fn bit(&self, group: Reg, vector: u8) -> bool {
        self.get(group.word_of(vector)) & 1 << (vector & 31) != 0
    }
}

impl Default for VirtualApicPage {
    fn default() -> Self {
        Self::new()
    }
}
