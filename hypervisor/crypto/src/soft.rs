//! The fallback, for processors without AES-NI or PCLMULQDQ: general instructions only, and no time that depends on a secret.
//!
//! AES is RustCrypto's fixsliced one, which computes on bits and has no tables; POLYVAL is its multiplication
//! with holes. Both crates would by themselves detect AES-NI at run time, with CPUID; the two `cfg`s that `.cargo/config.toml` sets
//! compile that out, and without them this crate does not compile either.
//!
//! Expanded keys are zeroized when they are dropped. What the libraries leave of a key or a page on the stack is not wiped: whoever
//! needs that, on a processor without AES-NI, has to clear the stack below the call, as the hypervisor does.

#[cfg(not(any(aes_force_soft, doc, doctest)))]
compile_error!(
    "build with `--cfg aes_force_soft`, as .cargo/config.toml does: the fallback has to be constant-time"
);
#[cfg(not(any(polyval_force_soft, doc, doctest)))]
compile_error!(
    "build with `--cfg polyval_force_soft`, as .cargo/config.toml does: the fallback has to be constant-time"
);

use crate::block::{Block, Direction};
use aes::cipher::{BlockDecrypt, BlockEncrypt, KeyInit};
use aes::{Aes256, Aes256Enc};
use polyval::Polyval;
use polyval::universal_hash::UniversalHash;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Blocks given to the cipher at once: twice what its fixsliced form works on.
const BATCH: usize = 8;

/// XTS with both keys expanded.
#[derive(ZeroizeOnDrop)]
pub struct Xts {
    data: Aes256,
    tweak: Aes256Enc,
}

impl Xts {
    pub fn new(data: &[u8; 32], tweak: &[u8; 32]) -> Self {
        Self {
            data: Aes256::new(data.into()),
            tweak: Aes256Enc::new(tweak.into()),
        }
    }

    /// Encrypts or decrypts `blocks` where they are.
    pub fn apply(&self, direction: Direction, tweak: &Block, blocks: &mut [Block]) {
        let mut first = aes::Block::from(*tweak);
        self.tweak.encrypt_block(&mut first);
        let mut whitening = u128::from_le_bytes(first.into());
        let mut batch = [aes::Block::default(); BATCH];
        for blocks in blocks.chunks_mut(BATCH) {
            let start = whitening;
            for (slot, block) in batch.iter_mut().zip(&*blocks) {
                let white = u128::from_le_bytes(*block) ^ whitening;
                slot.copy_from_slice(&white.to_le_bytes());
                whitening = times_x(whitening);
            }
            match direction {
                Direction::Encrypt => self.data.encrypt_blocks(&mut batch),
                Direction::Decrypt => self.data.decrypt_blocks(&mut batch),
            }
            let mut again = start;
            for (block, slot) in blocks.iter_mut().zip(&batch) {
                let white = u128::from_le_bytes((*slot).into()) ^ again;
                *block = white.to_le_bytes();
                again = times_x(again);
            }
        }
        batch
            .iter_mut()
            .for_each(|slot| slot.as_mut_slice().zeroize());
    }
}

/// `value` * x in GF(2^128) as XTS has it: IEEE 1619, "Multiplication by a primitive element".
const fn times_x(value: u128) -> u128 {
    let carry = 0_u128.wrapping_sub(value >> 127);
    value << 1 ^ carry & 0x87
}

/// The tag with its keys.
#[derive(ZeroizeOnDrop)]
pub struct Mac {
    hash: Block,
    cipher: Aes256Enc,
}

impl Mac {
    pub fn new(hash: &Block, cipher: &[u8; 32]) -> Self {
        Self {
            hash: *hash,
            cipher: Aes256Enc::new(cipher.into()),
        }
    }

    /// Puts the tag of `groups` and the two `last` blocks into `tag`.
    pub fn apply<const N: usize>(&self, groups: &[[Block; N]], last: &[Block; 2], tag: &mut Block) {
        let mut hash = Polyval::new((&self.hash).into());
        hash.update_padded(groups.as_flattened().as_flattened());
        hash.update_padded(last.as_flattened());
        let mut block = hash.finalize();
        self.cipher.encrypt_block(&mut block);
        *tag = block.into();
    }
}

/// The powers of the hash key `key` from the `powers.len()`th down to the first, as POLYVAL multiplies.
pub fn powers_of(key: &Block, powers: &mut [Block]) {
    let mut power = *key;
    for slot in powers.iter_mut().rev() {
        *slot = power;
        let mut product = Polyval::new(key.into());
        product.update_padded(&power);
        power = product.finalize().into();
    }
    power.zeroize();
}
