//! General registers as the exit handlers use them; [`Gprs`] itself is in [`crate::insn`].

pub use crate::insn::{GprIndex, Gprs};

/// RSI.
pub const RSI: GprIndex = GprIndex::new(6);
/// RDI.
pub const RDI: GprIndex = GprIndex::new(7);

/// Sets the low 32 bits of a register as 32-bit instructions do: the high ones become zero.
#[inline(always)]
pub fn set_low(gprs: &mut Gprs, index: GprIndex, value: u32) {
    gprs.set(index, u64::from(value));
}

/// EDX:EAX, the operand of the MSR instructions and XSETBV.
#[inline(always)]
#[must_use]
pub fn edx_eax(gprs: &Gprs) -> u64 {
    (gprs.get(GprIndex::RDX) << 32) | (gprs.get(GprIndex::RAX) & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_msr_operand_ignores_high_halves() {
        let mut gprs = Gprs::default();
        gprs.set(GprIndex::RDX, 0x1_0000_0001);
        gprs.set(GprIndex::RAX, 0x2_0000_0002);
        assert_eq!(edx_eax(&gprs), 0x1_0000_0002);
        set_low(&mut gprs, GprIndex::RAX, u32::MAX);
        assert_eq!(gprs.get(GprIndex::RAX), 0xffff_ffff);
    }
}
