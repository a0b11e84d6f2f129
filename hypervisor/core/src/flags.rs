//! Flags by their names, as `A | B | 0x40`.
//!
//! The library's writer says the same and is compiled for every type of flags. Here that is only where names are looked up.

use core::fmt;

use bitflags::Flags;

/// Writes the names of `flags`, and in hexadecimal what has none; nothing where there are none.
pub(crate) fn write<F>(flags: &F, f: &mut fmt::Formatter<'_>) -> fmt::Result
where
    F: Flags<Bits: Into<u64>>,
{
    let flag_at = |index: usize| {
        let flag = F::FLAGS.get(index)?;
        Some((flag.name(), flag.value().bits().into()))
    };
    write_bits(flags.bits().into(), flag_at, f)
}

#[inline(never)]
fn write_bits(
    bits: u64,
    flag_at: fn(usize) -> Option<(&'static str, u64)>,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let mut left = bits;
    let mut between = "";
    for (name, flag) in (0..).map_while(flag_at) {
        // What only stands for bits that are not flags has no name.
        if !name.is_empty() && bits & flag == flag && left & flag != 0 {
            f.write_str(between)?;
            f.write_str(name)?;
            between = " | ";
            left &= !flag;
        }
    }
    if left == 0 {
        return Ok(());
    }
    write!(f, "{between}{left:#x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpuid::features::Leaf7Ebx;
    use bitflags::bitflags;
    use proptest::prelude::*;

    bitflags! {
        /// With a name for two, and bits that have none.
        #[derive(Clone, Copy)]
        struct Several: u8 {
            const ONE = 1 << 0;
            const BOTH = 1 << 0 | 1 << 1;
            const HIGH = 1 << 6;
            const _ = 1 << 7;
        }
    }

    struct Ours<F>(F);

    impl<F: Flags<Bits: Into<u64>>> fmt::Display for Ours<F> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write(&self.0, f)
        }
    }

    fn theirs<F: Flags<Bits: bitflags::parser::WriteHex>>(flags: &F) -> String {
        let mut text = String::new();
        bitflags::parser::to_writer(flags, &mut text).unwrap();
        text
    }

    proptest! {
        #[test]
        fn flags_are_written_as_the_library_does(few: u8, many: u32) {
            let few = Several::from_bits_retain(few);
            prop_assert_eq!(Ours(few).to_string(), theirs(&few));
            let many = Leaf7Ebx::from_bits_retain(many);
            prop_assert_eq!(Ours(many).to_string(), theirs(&many));
        }
    }
}
