//! The units that everything here works on: a block of the cipher, and a page of blocks.

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;
/// A page's content.
pub type Page = [u8; PAGE_SIZE];

/// Bytes in a block of AES.
pub(crate) const BLOCK_SIZE: usize = 16;
/// A block of AES.
pub(crate) type Block = [u8; BLOCK_SIZE];

const _: () = assert!(PAGE_SIZE.is_multiple_of(BLOCK_SIZE));

/// Which way a cipher goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    /// From what it means to what nobody can read.
    Encrypt,
    /// Back.
    Decrypt,
}
