//! The MSR bitmap: which accesses the CPU lets through without an exit
//! (Intel SDM vol. 3C, "MSR-Bitmap Address").

use super::{Class, LSTAR, SYSENTER_EIP, classify};
use crate::apic::X2APIC_FIRST_MSR;

/// Bytes of a bitmap page.
pub const BITMAP_SIZE: usize = 4096;

/// First MSR of the high half.
const HIGH_FIRST: u32 = 0xc000_0000;
/// MSRs covered by each half.
const HALF: u32 = 0x2000;
/// Byte offset of the write half.
const WRITES: usize = 2048;

/// What the CPU does by itself with the x2APIC's MSRs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum X2apicAssist {
    /// Nothing: every access exits.
    None,
    /// "Virtualize x2APIC mode" and "APIC-register virtualization": reads come from the virtual-APIC page, TPR writes
    /// go to it.
    Registers,
    /// Virtual-interrupt delivery besides: EOI and self-IPI writes do not exit either.
    Delivery,
}

/// Fills `bitmap` so that exactly the pass-through accesses do not exit.
pub fn build_bitmap(bitmap: &mut [u8; BITMAP_SIZE], x2apic: X2apicAssist) {
    bitmap.fill(0xff);
    for first in [0, HIGH_FIRST] {
        for msr in first..first + HALF {
            let Class { read, write } = classify(msr);
            if read.is_pass_through() {
                open(bitmap, msr, 0);
            }
            if write.is_pass_through() {
                open(bitmap, msr, WRITES);
            }
        }
    }
    let readable = [
        0x02, 0x03, 0x08, 0x0a, 0x0d, 0x0f, 0x28, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x3e,
    ];
    if x2apic != X2apicAssist::None {
        // Not the current count: the page cannot count.
        for register in readable.into_iter().chain(0x10..0x28) {
            open(bitmap, X2APIC_FIRST_MSR + register, 0);
        }
        open(bitmap, X2APIC_FIRST_MSR + 0x08, WRITES);
    }
    if x2apic == X2apicAssist::Delivery {
        open(bitmap, X2APIC_FIRST_MSR + 0x0b, WRITES);
        open(bitmap, X2APIC_FIRST_MSR + 0x3f, WRITES);
    }
}

/// Has accesses exit to what says where system calls enter the kernel: the kernel/user split begins with it, and has gates there.
pub fn watch_entry_points(bitmap: &mut [u8; BITMAP_SIZE]) {
    for msr in [LSTAR, SYSENTER_EIP] {
        for half in [0, WRITES] {
            let (byte, bit) = place(msr, half);
            if let Some(byte) = bitmap.get_mut(byte) {
                *byte |= bit;
            }
        }
    }
}

fn open(bitmap: &mut [u8; BITMAP_SIZE], msr: u32, half: usize) {
    let (byte, bit) = place(msr, half);
    if let Some(byte) = bitmap.get_mut(byte) {
        *byte &= !bit;
    }
}

/// The byte that has the bit of `msr`, and the bit.
const fn place(msr: u32, half: usize) -> (usize, u8) {
    let index = if msr >= HIGH_FIRST {
        msr - HIGH_FIRST + HALF
    } else {
        msr
    };
    (half + (index / 8) as usize, 1 << (index % 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(assist: X2apicAssist) -> [u8; BITMAP_SIZE] {
        let mut bitmap = [0; BITMAP_SIZE];
        build_bitmap(&mut bitmap, assist);
        bitmap
    }

    fn opened(bitmap: &[u8; BITMAP_SIZE], half: usize) -> Vec<u32> {
        let clear = |index: &u32| bitmap[half + (*index / 8) as usize] & 1 << (*index % 8) == 0;
        let number = |index| {
            if index < HALF {
                index
            } else {
                index - HALF + HIGH_FIRST
            }
        };
        (0..2 * HALF).filter(clear).map(number).collect()
    }

    #[test]
    fn without_assistance_only_switched_registers_pass() {
        let bitmap = built(X2apicAssist::None);
        let both = [
            0x174,
            0x175,
            0x176,
            0xc000_0081,
            0xc000_0082,
            0xc000_0083,
            0xc000_0084,
            0xc000_0100,
            0xc000_0101,
            0xc000_0102,
            0xc000_0103,
        ];
        assert_eq!(opened(&bitmap, WRITES), both);
        let mut reads = both.to_vec();
        reads.extend([0x10, 0x277, 0xc000_0080]);
        reads.sort_unstable();
        assert_eq!(opened(&bitmap, 0), reads);
    }

    #[test]
    fn layout_is_the_manuals() {
        let bitmap = built(X2apicAssist::None);
        // Read bit of 0x174 in the low half; write bit of 0xC0000100 in the high write half.
        assert_eq!(bitmap[0x174 / 8] & 1 << 4, 0);
        assert_eq!(bitmap[3072 + 0x100 / 8] & 1, 0);
    }

    #[test]
    fn delivery_assistance_opens_eoi_but_never_the_timer() {
        let bitmap = built(X2apicAssist::Delivery);
        let apic: Vec<_> = opened(&bitmap, WRITES)
            .into_iter()
            .filter(|msr| msr >> 8 == 8)
            .collect();
        assert_eq!(apic, [0x808, 0x80b, 0x83f]);
        let reads = opened(&bitmap, 0);
        for msr in [0x839, 0x830, 0x80b, 0x83f, 0x6e0] {
            assert!(!reads.contains(&msr), "{msr:#x}");
        }
        let registers = opened(&built(X2apicAssist::Registers), WRITES);
        assert!(registers.contains(&0x808) && !registers.contains(&0x80b));
    }
}
