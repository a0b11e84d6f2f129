//! File names on a FAT volume: a unique 8.3 name for each, and long-name entries where that is not the name itself.

use std::collections::BTreeSet;

/// UTF-16 units in one long-name entry.
const UNITS: usize = 13;
const LAST_ENTRY: u8 = 0x40;
const ATTRIBUTE_LONG_NAME: u8 = 0x0f;
/// Where the units of a long-name entry lie.
const UNIT_OFFSETS: [usize; UNITS] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];

/// Directory entries that `name` takes.
pub fn slots(name: &str) -> usize {
    if exact(name).is_some() {
        1
    } else {
        1 + name.encode_utf16().count().div_ceil(UNITS)
    }
}

/// The short names given out in one directory.
#[derive(Debug, Default)]
pub struct ShortNames {
    taken: BTreeSet<[u8; 11]>,
}

impl ShortNames {
    /// The short name for `name`: itself where it is one, else a numbered one.
    pub fn assign(&mut self, name: &str) -> [u8; 11] {
        if let Some(short) = exact(name)
            && self.taken.insert(short)
        {
            return short;
        }
        let mut number = 1_usize;
        loop {
            let short = numbered(name, number);
            if self.taken.insert(short) {
                return short;
            }
            number += 1;
        }
    }
}

/// The long-name entries that precede the entry `short`, in the order they lie on the disk.
pub fn long_entries(name: &str, short: [u8; 11]) -> Vec<[u8; 32]> {
    if exact(name) == Some(short) {
        return Vec::new();
    }
    let units: Vec<u16> = name.encode_utf16().collect();
    let chunks: Vec<&[u16]> = units.chunks(UNITS).collect();
    let sum = checksum(short);
    let count = chunks.len();
    let entries = chunks.iter().enumerate().rev().map(|(index, chunk)| {
        let mut entry = [0; 32];
        let last = if index + 1 == count { LAST_ENTRY } else { 0 };
        entry[0] = (index as u8 + 1) | last;
        entry[11] = ATTRIBUTE_LONG_NAME;
        entry[13] = sum;
        // A name that does not fill its last entry ends with one NUL, then all ones.
        let padded = chunk
            .iter()
            .copied()
            .chain([0])
            .chain(std::iter::repeat(0xffff));
        for (offset, unit) in UNIT_OFFSETS.into_iter().zip(padded) {
            entry[offset..offset + 2].copy_from_slice(&unit.to_le_bytes());
        }
        entry
    });
    entries.collect()
}

/// `name` as a short name, when it is one already: upper case, eight and three characters.
fn exact(name: &str) -> Option<[u8; 11]> {
    let (base, extension) = name.split_once('.').unwrap_or((name, ""));
    let fits = (1..=8).contains(&base.len()) && extension.len() <= 3 && !name.ends_with('.');
    let plain = |part: &str| part.bytes().all(|c| is_short(c) && !c.is_ascii_lowercase());
    (fits && plain(base) && plain(extension)).then(|| pack(base.as_bytes(), extension.as_bytes()))
}

/// The `number`th alias of `name`, such as `VMLINU~1`.
fn numbered(name: &str, number: usize) -> [u8; 11] {
    let (base, extension) = match name.rsplit_once('.') {
        Some((base, extension)) if !base.is_empty() => (base, extension),
        _ => (name, ""),
    };
    let squeeze = |part: &str| -> Vec<u8> {
        part.bytes()
            .filter(|c| !matches!(c, b' ' | b'.'))
            .map(|c| {
                if is_short(c) {
                    c.to_ascii_uppercase()
                } else {
                    b'_'
                }
            })
            .collect()
    };
    let tail = format!("~{number}");
    let mut head = squeeze(base);
    head.truncate(8_usize.saturating_sub(tail.len()));
    head.extend_from_slice(tail.as_bytes());
    let mut extension = squeeze(extension);
    extension.truncate(3);
    pack(&head, &extension)
}

fn pack(base: &[u8], extension: &[u8]) -> [u8; 11] {
    let mut short = [b' '; 11];
    short[..base.len()].copy_from_slice(base);
    short[8..8 + extension.len()].copy_from_slice(extension);
    short
}

fn is_short(c: u8) -> bool {
    c.is_ascii_alphanumeric() || b"$%'-_@~`!(){}^#&".contains(&c)
}

/// Binds long-name entries to their short name.
fn checksum(short: [u8; 11]) -> u8 {
    short
        .iter()
        .fold(0, |sum: u8, byte| sum.rotate_right(1).wrapping_add(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_name_stays_itself() {
        let mut names = ShortNames::default();
        assert_eq!(&names.assign("BOOTX64.EFI"), b"BOOTX64 EFI");
        assert!(long_entries("BOOTX64.EFI", *b"BOOTX64 EFI").is_empty());
        assert_eq!(slots("BOOTX64.EFI"), 1);
    }

    #[test]
    fn long_names_get_distinct_aliases() {
        let mut names = ShortNames::default();
        assert_eq!(&names.assign("vmlinuz-6.1-cloud"), b"VMLINU~11-C");
        assert_eq!(&names.assign("vmlinuz-6.1-clone"), b"VMLINU~21-C");
        assert_eq!(&names.assign("bulkhead.toml"), b"BULKHE~1TOM");
        assert_eq!(slots("bulkhead.toml"), 2);
        assert_eq!(slots("vmlinuz-6.1-cloud"), 3);
    }

    #[test]
    fn aliases_stay_distinct_past_nine() {
        let mut names = ShortNames::default();
        let all: BTreeSet<_> = (0..150)
            .map(|n| names.assign(&format!("a long name {n}")))
            .collect();
        assert_eq!(all.len(), 150);
    }

    #[test]
    fn a_name_that_fills_its_entry_has_no_terminator() {
        let entries = long_entries("thirteen-char", *b"THIRTE~1   ");
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0][0], 1 | LAST_ENTRY);
        assert_eq!(entries[0][30], b'r');
    }
}
