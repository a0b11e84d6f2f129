//! Little-endian fields of untrusted bytes: every read is checked, none can panic.

/// Checked reads at a byte offset; `None` where the field passes the end.
pub(crate) trait Fields {
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    fn u8(&self, offset: usize) -> Option<u8> {
        self.bytes(offset).map(u8::from_le_bytes)
    }

    fn u16(&self, offset: usize) -> Option<u16> {
        self.bytes(offset).map(u16::from_le_bytes)
    }

    fn u32(&self, offset: usize) -> Option<u32> {
        self.bytes(offset).map(u32::from_le_bytes)
    }

    fn u64(&self, offset: usize) -> Option<u64> {
        self.bytes(offset).map(u64::from_le_bytes)
    }
}

impl Fields for [u8] {
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_little_endian_and_end_with_the_bytes() {
        let bytes: &[u8] = &[1, 2, 3, 4, 5];
        assert_eq!(bytes.u16(1), Some(0x0302));
        assert_eq!(bytes.u32(1), Some(0x0504_0302));
        assert_eq!(bytes.u32(2), None);
        assert_eq!(bytes.u8(usize::MAX), None);
    }
}
