//! Any 16 consecutive bytes of given texts, wherever they lie in memory.

use std::collections::BTreeMap;

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use bulkhead_core::addr::Hpa;

use crate::outcome::{Failure, Outcome};

/// Bytes that have to be equal for something to count as found: by chance that does not happen.
pub const STRING: usize = 16;
/// Bytes of the pieces that are looked for: any [`STRING`] bytes of a text have one of its aligned pieces in them, whole.
const PIECE: usize = 8;

/// Texts whose strings are looked for.
#[derive(Debug)]
pub struct Strings {
    texts: Vec<Vec<u8>>,
    pieces: AhoCorasick,
    /// By piece: which text, and where in it.
    places: Vec<(usize, usize)>,
}

/// A part of a text that lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// Where.
    pub at: Hpa,
    /// Which text.
    pub text: usize,
    /// Where in the text the part begins.
    pub offset: usize,
    /// How long it is: [`STRING`] or more.
    pub length: usize,
}

impl Strings {
    /// Looks for strings of `texts`, each of at least [`STRING`] bytes, and random enough to be found nowhere by chance.
    pub fn of<T: Into<Vec<u8>>>(texts: impl IntoIterator<Item = T>) -> Outcome<Self> {
        let texts: Vec<Vec<u8>> = texts.into_iter().map(Into::into).collect();
        let mut pieces = Vec::new();
        let mut places = Vec::new();
        for (text, bytes) in texts.iter().enumerate() {
            for (index, piece) in bytes.as_chunks::<PIECE>().0.iter().enumerate() {
                if piece.iter().all(|byte| *byte == piece[0]) {
                    return Err(Failure::Unmet(format!(
                        "text {text} has {piece:x?} in it, which is everywhere"
                    )));
                }
                pieces.push(piece);
                places.push((text, index * PIECE));
            }
        }
        let pieces = AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::DFA))
            .build(pieces)
            .map_err(|error| Failure::Unmet(error.to_string()))?;
        Ok(Self {
            texts,
            pieces,
            places,
        })
    }

    /// Adds to `hits` what is in `memory`, which begins at `base`.
    pub fn look(&self, base: Hpa, memory: &[u8], hits: &mut Vec<Hit>) {
        // A long part is found by each of its pieces: by where the whole text would begin, one is enough.
        let mut seen = BTreeMap::new();
        for found in self.pieces.find_overlapping_iter(memory) {
            let (text, offset) = self.places[found.pattern().as_usize()];
            let origin = found.start() as i64 - offset as i64;
            if seen
                .get(&(text, origin))
                .is_some_and(|end| found.start() < *end)
            {
                continue;
            }
            let bytes = &self.texts[text];
            let before = equal(
                bytes[..offset].iter().rev(),
                memory[..found.start()].iter().rev(),
            );
            let after = equal(&bytes[offset..], &memory[found.start()..]);
            seen.insert((text, origin), found.start() + after);
            let hit = Hit {
                at: Hpa(base.0 + (found.start() - before) as u64),
                text,
                offset: offset - before,
                length: before + after,
            };
            // What lies in the overlap of two pieces of memory is seen twice.
            let again = |other: &Hit| {
                (other.at, other.text, other.offset) == (hit.at, hit.text, hit.offset)
            };
            if hit.length >= STRING && !hits.iter().rev().take(64).any(again) {
                hits.push(hit);
            }
        }
    }
}

/// How many of both are equal, from the first on.
fn equal<'a>(
    one: impl IntoIterator<Item = &'a u8>,
    other: impl IntoIterator<Item = &'a u8>,
) -> usize {
    one.into_iter()
        .zip(other)
        .take_while(|(one, other)| one == other)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forge::random_bytes;

    fn found(strings: &Strings, memory: &[u8]) -> Vec<Hit> {
        let mut hits = Vec::new();
        strings.look(Hpa(0x1000), memory, &mut hits);
        hits
    }

    #[test]
    fn any_sixteen_bytes_are_found_at_any_offset() {
        let text = random_bytes(1, 256);
        let strings = Strings::of([text.clone()]).unwrap();
        for offset in 0..=text.len() - STRING {
            for at in [0, 1, 7, 100, 1000 - STRING] {
                let mut memory = random_bytes(2, 1000);
                memory[at..at + STRING].copy_from_slice(&text[offset..offset + STRING]);
                let hits = found(&strings, &memory);
                assert_eq!(hits.len(), 1, "{offset} at {at}");
                // A neighbour may be equal by chance.
                assert!(hits[0].at.0 <= 0x1000 + at as u64 && hits[0].length >= STRING);
            }
        }
    }

    #[test]
    fn a_whole_text_is_one_hit_and_its_parts_are_told_apart() {
        let texts = [random_bytes(3, 4096), random_bytes(4, 32)];
        let strings = Strings::of(texts.clone()).unwrap();
        let mut memory = vec![0; 3 * 4096];
        memory[4096..8192].copy_from_slice(&texts[0]);
        memory[9000..9020].copy_from_slice(&texts[1][12..]);
        let expected = [
            Hit {
                at: Hpa(0x2000),
                text: 0,
                offset: 0,
                length: 4096,
            },
            Hit {
                at: Hpa(0x1000 + 9000),
                text: 1,
                offset: 12,
                length: 20,
            },
        ];
        assert_eq!(found(&strings, &memory), expected);
    }

    #[test]
    fn fewer_bytes_and_other_memory_are_not_found() {
        let text = random_bytes(5, 64);
        let strings = Strings::of([text.clone()]).unwrap();
        let mut memory = vec![0; 4096];
        memory[100..115].copy_from_slice(&text[8..23]);
        assert_eq!(found(&strings, &memory), []);
        assert_eq!(found(&strings, &random_bytes(6, 1 << 16)), []);
    }

    #[test]
    fn what_is_cut_between_pieces_of_memory_is_found_once_by_their_overlap() {
        let text = random_bytes(7, 16);
        let strings = Strings::of([text.clone()]).unwrap();
        let mut memory = vec![0; 256];
        memory[120..136].copy_from_slice(&text);
        let mut hits = Vec::new();
        strings.look(Hpa(0), &memory[..128], &mut hits);
        strings.look(Hpa(128 - STRING as u64), &memory[128 - STRING..], &mut hits);
        assert_eq!(hits.len(), 1);
        assert_eq!(hits[0].at, Hpa(120));
    }

    #[test]
    fn a_text_that_is_everywhere_is_refused() {
        assert!(Strings::of([vec![0; 16]]).is_err());
    }
}
