//! Machine code that is recognised by its instructions and changed in place.
//!
//! Neighbours: `interrupts`, `syscalls` and `remapping`, which mend emulators with it.

/// An instruction sequence; `None` stands for any byte: displacements, which follow the layout of the emulator's structures.
pub type Pattern = [Option<u8>];

/// Where `pattern` begins in `code`, if it is there once.
#[must_use]
pub fn find_once(code: &[u8], pattern: &Pattern) -> Option<usize> {
    let mut places = code
        .windows(pattern.len())
        .enumerate()
        .filter(|(_, window)| {
            window
                .iter()
                .zip(pattern)
                .all(|(byte, wanted)| wanted.is_none_or(|wanted| wanted == *byte))
        });
    let (place, _) = places.next()?;
    places.next().is_none().then_some(place)
}

/// A [`Pattern`] as an array, from bytes and `_`.
macro_rules! pattern {
    (@ _) => { None };
    (@ $byte:literal) => { Some($byte) };
    ($($byte:tt)*) => { [$($crate::provision::code::pattern!(@ $byte)),*] };
}

pub(super) use pattern;

/// The displacement of 32 bits at `at`.
#[must_use]
pub fn displacement(code: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_le_bytes(
        code.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

/// The displacement that leads from the end `from` of an instruction to `to`.
#[must_use]
pub fn distance(from: usize, to: usize) -> Option<[u8; 4]> {
    let distance = i64::try_from(to).ok()? - i64::try_from(from).ok()?;
    Some(i32::try_from(distance).ok()?.to_le_bytes())
}
