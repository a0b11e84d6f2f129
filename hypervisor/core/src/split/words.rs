//! Bytes as what a page is written by.

use crate::table::ENTRIES;

/// `bytes` in words, the last of them filled up with zeroes, and zeroes for the rest of a page.
pub fn of_page(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let words = bytes.chunks(size_of::<u64>()).map(|chunk| {
        let mut word = [0; size_of::<u64>()];
        word.iter_mut()
            .zip(chunk)
            .for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(word)
    });
    words.chain(core::iter::repeat(0)).take(ENTRIES)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::of_page;

    #[test]
    fn every_byte_of_a_part_of_a_page_is_in_it() {
        for length in [0, 1, 7, 8, 370, 4095, 4096] {
            let bytes: Vec<u8> = (0..length).map(|byte| byte as u8 | 1).collect();
            let page: Vec<u8> = of_page(&bytes).flat_map(u64::to_le_bytes).collect();
            assert_eq!(page.len(), 4096);
            assert_eq!(page[..length], bytes);
            assert!(page[length..].iter().all(|byte| *byte == 0));
        }
    }
}
