//! A very small assembler for the gates.

use alloc::vec::Vec;

use crate::addr::Gva;

/// Code that is to lie at an address.
#[derive(Debug)]
pub(super) struct Code {
    at: Gva,
    bytes: Vec<u8>,
    /// A jump went further than 2 GiB.
    too_far: bool,
}

impl Code {
    pub(super) const fn at(at: Gva) -> Self {
        Self {
            at,
            bytes: Vec::new(),
            too_far: false,
        }
    }

    /// The address of what comes next.
    pub(super) fn here(&self) -> Gva {
        Gva(self.at.0 + self.bytes.len() as u64)
    }

    /// The bytes, unless something in them does not reach.
    pub(super) fn finish(self) -> Option<Vec<u8>> {
        (!self.too_far).then_some(self.bytes)
    }

    /// An instruction, or several.
    pub(super) fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// An instruction that ends with a 32-bit displacement to `to` from its end.
    pub(super) fn relative(&mut self, opcode: &[u8], to: Gva) -> &mut Self {
        self.put(opcode);
        let end = self.here().0.wrapping_add(4);
        let displacement = to.0.wrapping_sub(end) as i64;
        match i32::try_from(displacement) {
            Ok(near) => self.put(&near.to_le_bytes()),
            Err(_) => {
                self.too_far = true;
                self
            }
        }
    }

    pub(super) fn jump(&mut self, to: Gva) -> &mut Self {
        self.relative(&[0xe9], to)
    }

    /// Fills up to a multiple of `to` bytes with INT3.
    pub(super) fn align(&mut self, to: usize) -> &mut Self {
        let length = self.bytes.len().next_multiple_of(to);
        self.bytes.resize(length, 0xcc);
        self
    }
}
