//! Whether bytes have a root key in them of which only the fingerprint is known: as it is, or written out in hexadecimal digits.

use bulkhead_tpm::root_key::fingerprint;
use bulkhead_tpm::{DIGEST_BYTES, Secret};

/// Hexadecimal digits of a key.
const DIGITS: usize = 2 * DIGEST_BYTES;

/// Whether the root key with the fingerprint `wanted`, as events have it, is anywhere in `bytes`.
pub fn has_key(bytes: &[u8], wanted: &str) -> bool {
    let mut candidate = Secret::default();
    let mut is_it = |key: &[u8]| {
        candidate.copy_from_slice(key);
        hex(&fingerprint(&candidate)) == wanted
    };
    bytes.windows(DIGEST_BYTES).any(&mut is_it)
        || bytes
            .windows(DIGITS)
            .filter_map(from_hex)
            .any(|key| is_it(&key))
}

/// Bytes as events have them.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that `digits`, small or capital ones, stand for.
fn from_hex(digits: &[u8]) -> Option<Vec<u8>> {
    // The last first: what is no hexadecimal text is given up at once, nearly always.
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    digits.last().and_then(digit)?;
    let (pairs, _) = digits.as_chunks();
    let byte = |[high, low]: &[u8; 2]| Some((digit(high)? << 4 | digit(low)?) as u8);
    pairs.iter().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key and its fingerprint, as `printf '%s%s' 'Bulkhead root key fingerprint' KEY | sha256sum` begins.
    const KEY: &[u8; 32] = b"thirty-two bytes of a root key..";
    const FINGERPRINT: &str = "929616d742fa3626";

    #[test]
    fn a_key_in_the_clear_is_found_wherever_it_begins() {
        for before in 0..3 {
            let bytes = [&b"xyz"[..before], KEY, b"more"].concat();
            assert!(has_key(&bytes, FINGERPRINT));
            assert!(!has_key(&bytes[1 + before..], FINGERPRINT));
        }
        assert!(!has_key(b"", FINGERPRINT));
    }

    #[test]
    fn a_key_in_digits_is_found_in_either_case_and_at_either_parity() {
        let mixed = hex(KEY).replacen('b', "B", 1).replacen('e', "E", 1);
        for text in [hex(KEY), hex(KEY).to_uppercase(), mixed] {
            for before in ["", "0", "ab", "bytes: "] {
                let line = format!("{before}{text}0c");
                assert!(has_key(line.as_bytes(), FINGERPRINT), "{line}");
                let broken = line.replacen('7', "g", 1);
                assert!(!has_key(broken.as_bytes(), FINGERPRINT), "{broken}");
            }
        }
    }
}
