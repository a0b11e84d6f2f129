//! Expanded AES-256 keys in memory, found by what makes them one: each round key follows from the two before.
//!
//! The idea is that of Halderman et al., "Lest We Remember: Cold Boot Attacks on Encryption Keys", section 6, "Identifying Keys in
//! Memory", without the repair of decayed bits. Two layouts are known: round keys one after the other, as FIPS 197 has them, and
//! each of them twice in a row, as `bulkhead-crypto`'s vector code has them. The bit-sliced form of its fallback is not; no emulator that runs
//! the harness lacks AES-NI.

use bulkhead_core::addr::Hpa;

/// Round keys of AES-256.
const ROUND_KEYS: usize = 15;
/// From one round key to the next.
const STRIDES: [usize; 2] = [16, 32];
/// Bytes that the longest layout takes.
pub const MAX_BYTES: usize = ROUND_KEYS * 32;
/// Round keys are read and written as words.
const ALIGNMENT: usize = 4;

/// 16 bytes.
pub type Block = [u8; 16];
type Word = [u8; 4];

/// An expanded key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Where its first round key is.
    pub at: Hpa,
    /// From one round key to the next.
    pub stride: usize,
    /// The key.
    pub key: [u8; 32],
}

impl Schedule {
    /// Every 16 bytes that give the key away: its halves, which are the first round keys, all others, and those of decryption.
    pub fn traces(&self) -> Vec<Block> {
        let round_keys = expand(&self.key);
        let inverted = round_keys[1..ROUND_KEYS - 1]
            .iter()
            .map(inverse_mix_columns);
        round_keys.iter().copied().chain(inverted).collect()
    }
}

/// Adds to `found` the expanded keys in `memory`, which begins at `base`.
pub fn look(base: Hpa, memory: &[u8], found: &mut Vec<Schedule>) {
    for at in (0..memory.len()).step_by(ALIGNMENT) {
        for stride in STRIDES {
            let Some(key) = key_at(&memory[at..], stride) else {
                continue;
            };
            let schedule = Schedule {
                at: Hpa(base.0 + at as u64),
                stride,
                key,
            };
            // The second of two equal copies begins 16 bytes later, and what lies in an overlap is seen twice.
            let again = |other: &Schedule| {
                other.key == key && schedule.at.0.abs_diff(other.at.0) < stride as u64
            };
            if !found.iter().any(again) {
                found.push(schedule);
            }
        }
    }
}

/// The key that `memory` begins with in expanded form, if it does.
fn key_at(memory: &[u8], stride: usize) -> Option<[u8; 32]> {
    let block = |index: usize| -> Option<&Block> { memory.get(index * stride..)?.first_chunk() };
    let (low, high, next) = (block(0)?, block(1)?, block(2)?);
    // One word tells nearly everything else apart from a schedule.
    let word =
        |block: &Block, index: usize| -> Word { [0, 1, 2, 3].map(|byte| block[4 * index + byte]) };
    if word(next, 0) != add(word(low, 0), turned(word(high, 3), 1)) {
        return None;
    }
    let mut key = [0; 32];
    key[..16].copy_from_slice(low);
    key[16..].copy_from_slice(high);
    let whole = expand(&key)
        .iter()
        .enumerate()
        .all(|(index, round_key)| block(index) == Some(round_key));
    whole.then_some(key)
}

/// FIPS 197, "Key Expansion", for keys of eight words.
pub fn expand(key: &[u8; 32]) -> [Block; ROUND_KEYS] {
    let mut words: Vec<Word> = key.as_chunks().0.to_vec();
    let mut constant = 1;
    while words.len() < 4 * ROUND_KEYS {
        let count = words.len();
        let last = words[count - 1];
        let mixed = match count % 8 {
            0 => {
                let mixed = turned(last, constant);
                constant <<= 1;
                mixed
            }
            4 => last.map(substitute),
            _ => last,
        };
        words.push(add(words[count - 8], mixed));
    }
    let mut round_keys = [[0; 16]; ROUND_KEYS];
    for (round_key, words) in round_keys.iter_mut().zip(words.chunks_exact(4)) {
        round_key.copy_from_slice(words.as_flattened());
    }
    round_keys
}

/// RotWord, SubWord and the round constant of FIPS 197, "Key Expansion".
fn turned([a, b, c, d]: Word, constant: u8) -> Word {
    let [a, b, c, d] = [b, c, d, a].map(substitute);
    [a ^ constant, b, c, d]
}

fn add(one: Word, other: Word) -> Word {
    [0, 1, 2, 3].map(|byte| one[byte] ^ other[byte])
}

/// FIPS 197, "InvMixColumns()".
fn inverse_mix_columns(block: &Block) -> Block {
    let mut mixed = [0; 16];
    for (column, out) in block.chunks_exact(4).zip(mixed.chunks_exact_mut(4)) {
        for (row, byte) in out.iter_mut().enumerate() {
            *byte = [14, 11, 13, 9]
                .iter()
                .enumerate()
                .fold(0, |sum, (index, factor)| {
                    sum ^ multiply(column[(row + index) % 4], *factor)
                });
        }
    }
    mixed
}

/// FIPS 197, "Multiplication in GF(2^8)".
const fn multiply(mut one: u8, mut other: u8) -> u8 {
    let mut product = 0;
    while other > 0 {
        if other & 1 == 1 {
            product ^= one;
        }
        let carry = one >> 7;
        one = (one << 1) ^ (carry * 0x1b);
        other >>= 1;
    }
    product
}

fn substitute(byte: u8) -> u8 {
    S_BOX[usize::from(byte)]
}

/// FIPS 197, "SubBytes()".
static S_BOX: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = s_box_entry(byte as u8);
        byte += 1;
    }
    table
};

/// The inverse in the field, which is the 254th power, then an affine map.
const fn s_box_entry(byte: u8) -> u8 {
    let (mut inverse, mut power, mut turn) = (1, byte, 1);
    while turn < 8 {
        power = multiply(power, power);
        inverse = multiply(inverse, power);
        turn += 1;
    }
    inverse
        ^ inverse.rotate_left(1)
        ^ inverse.rotate_left(2)
        ^ inverse.rotate_left(3)
        ^ inverse.rotate_left(4)
        ^ 0x63
}

#[cfg(test)]
mod tests;
