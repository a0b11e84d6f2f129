//! The guest's memory type range registers: storage with the architecture's checks and no effect.
//!
//! They exist because Linux 6.1 gives up its page attribute table where MTRRs are hidden or off. Memory types of guest
//! RAM come from EPT and the guest's PAT alone, so nothing the guest stores here reaches hardware
//! (Intel SDM vol. 3A, "Memory Type Range Registers (MTRRs)").

use crate::fault::GuestFault;

/// `IA32_MTRRCAP`.
pub(super) const CAP: u32 = 0xfe;
/// `IA32_MTRR_DEF_TYPE`.
pub(super) const DEF_TYPE: u32 = 0x2ff;
/// `IA32_MTRR_PHYSBASE0`; base and mask alternate from here.
pub(super) const VARIABLE_FIRST: u32 = 0x200;
/// Mask of the last variable range.
pub(super) const VARIABLE_LAST: u32 = VARIABLE_FIRST + 2 * VARIABLE_COUNT as u32 - 1;

const VARIABLE_COUNT: usize = 8;
const FIXED: [u32; 11] = [
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
];

/// Eight variable ranges, fixed ranges, write-combining; no SMRR.
const CAP_VALUE: u64 = VARIABLE_COUNT as u64 | 1 << 8 | 1 << 10;
/// Enabled, fixed ranges enabled, default type write-back: RAM everywhere, as PAT refines.
const DEF_TYPE_AT_START: u64 = 1 << 11 | 1 << 10 | WRITE_BACK;
const WRITE_BACK: u64 = 6;
const ALL_WRITE_BACK: u64 = 0x0606_0606_0606_0606;

/// Register contents.
#[derive(Clone, Debug)]
pub(super) struct Mtrrs {
    def_type: u64,
    fixed: [u64; FIXED.len()],
    variable: [u64; 2 * VARIABLE_COUNT],
    /// Address bits above the guest's physical width, reserved in bases and masks.
    reserved_address: u64,
}

impl Mtrrs {
    pub(super) const fn new(physical_bits: u32) -> Self {
        Self {
            def_type: DEF_TYPE_AT_START,
            fixed: [ALL_WRITE_BACK; FIXED.len()],
            variable: [0; 2 * VARIABLE_COUNT],
            reserved_address: if physical_bits >= 64 {
                0
            } else {
                u64::MAX << physical_bits
            },
        }
    }

    pub(super) fn read(&self, msr: u32) -> Option<u64> {
        match msr {
            CAP => Some(CAP_VALUE),
            DEF_TYPE => Some(self.def_type),
            VARIABLE_FIRST..=VARIABLE_LAST => {
                self.variable.get((msr - VARIABLE_FIRST) as usize).copied()
            }
            _ => self.fixed.get(fixed_index(msr)?).copied(),
        }
    }

    pub(super) fn write(&mut self, msr: u32, value: u64) -> Result<(), GuestFault> {
        let valid = match msr {
            DEF_TYPE => value & !0xcff == 0 && is_type(value & 0xff),
            VARIABLE_FIRST..=VARIABLE_LAST if msr & 1 == 0 => {
                value & (self.reserved_address | 0xf00) == 0 && is_type(value & 0xff)
            }
            VARIABLE_FIRST..=VARIABLE_LAST => value & (self.reserved_address | 0x7ff) == 0,
            _ => value
                .to_le_bytes()
                .into_iter()
                .all(|byte| is_type(u64::from(byte))),
        };
        let slot = match msr {
            DEF_TYPE => Some(&mut self.def_type),
            VARIABLE_FIRST..=VARIABLE_LAST => {
                self.variable.get_mut((msr - VARIABLE_FIRST) as usize)
            }
            _ => fixed_index(msr).and_then(|index| self.fixed.get_mut(index)),
        };
        match slot {
            Some(slot) if valid => {
                *slot = value;
                Ok(())
            }
            _ => Err(GuestFault::GP0),
        }
    }
}

fn fixed_index(msr: u32) -> Option<usize> {
    FIXED.iter().position(|fixed| *fixed == msr)
}

/// Whether `msr` is one of the fixed-range registers.
pub(super) const fn is_fixed(msr: u32) -> bool {
    matches!(msr, 0x250 | 0x258 | 0x259 | 0x268..=0x26f)
}

/// UC, WC, WT, WP or WB: MTRRs know no UC-.
const fn is_type(value: u64) -> bool {
    matches!(value, 0 | 1 | 4 | 5 | WRITE_BACK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_enabled_with_write_back_everywhere() {
        let mtrrs = Mtrrs::new(39);
        assert_eq!(mtrrs.read(DEF_TYPE), Some(0xc06));
        assert_eq!(mtrrs.read(CAP), Some(0x508));
        for msr in FIXED {
            assert!(is_fixed(msr));
            assert_eq!(mtrrs.read(msr), Some(ALL_WRITE_BACK));
        }
    }

    #[test]
    fn stores_valid_values_and_refuses_reserved_bits_and_types() {
        let mut mtrrs = Mtrrs::new(39);
        for (msr, value) in [
            (DEF_TYPE, 0x800),
            (0x200, 0xc000_0000),
            (0x201, 0x7f_c000_0800),
            (0x26f, 0x0505),
        ] {
            assert_eq!(mtrrs.write(msr, value), Ok(()));
            assert_eq!(mtrrs.read(msr), Some(value));
        }
        for (msr, value) in [
            (CAP, CAP_VALUE),
            (DEF_TYPE, 0x1000),
            (DEF_TYPE, 0xc07),
            (0x200, 0x100),
            (0x200, 2),
            (0x200, 1 << 39),
            (0x201, 0x400),
            (0x201, 1 << 39 | 0x800),
            (0x250, 0x0700),
            (0x251, 0),
            (0x210, 0),
        ] {
            assert_eq!(
                mtrrs.write(msr, value),
                Err(GuestFault::GP0),
                "{msr:#x} {value:#x}"
            );
        }
    }
}
