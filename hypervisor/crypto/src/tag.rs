//! [`PageMac`]: what tells that a sealed page is the one that was sealed, there, then.
//!
//! tag = AES-256(K, POLYVAL(H, ciphertext ‖ gpa ‖ version ‖ VM)), with H and K for tags only and for one life of one VM.
//!
//! # Why this one
//!
//! - **Hash, then encrypt the hash, needs no nonce.** The usual Carter-Wegman form (GMAC) adds the hash to an encrypted
//!   nonce; (gpa, version) would be one as long as no version is ever used twice, but two different pages under one nonce give away H, and
//!   with it every tag. Here the same mistake gives two tags that are each as good as any: what is left of it is only that the older page
//!   may be replayed, which no tag could prevent. A version counter that a snapshot brings back should not cost the key.
//! - **It costs one block of AES more than the hash**, as the other form does, and the hash is carry-less multiplications: some
//!   four a block. HMAC-SHA-256, KMAC and BLAKE3 are several times as slow without vector code of their own.
//! - **The fallback is constant-time**: RustCrypto's POLYVAL multiplies integers with holes.
//!
//! # How good it is
//!
//! What is hashed has always 258 blocks, so nothing has to be said about lengths. POLYVAL makes two different ones equal for
//! at most 258 of the 2^128 values of H. As long as AES is a random permutation to whoever does not have K:
//!
//! - that two of q tags of a VM collide, which would let pages be swapped: at most q^2 * 2^-120, so 2^-40 after 2^40 seals (4 PiB);
//! - that a page is taken that was never sealed so: at most 2^-119 a try; and the first failed one stops the VM.
//!
//! Both are the same for all the ways a page may be wrong: changed, moved to another address, put into another VM (whose keys
//! differ anyway), or an older version put back.

use alloc::boxed::Box;
use bulkhead_core::secmem::{Place, Tag};
use core::fmt;
use subtle::ConstantTimeEq;

use crate::block::{BLOCK_SIZE, Block, Page};
use crate::cpu::{Implementation, Path};
use crate::keys::MacKey;
use crate::soft;
use crate::vector::{Form, SaveArea, TAG_GROUP, TagSchedule};

/// What is hashed after the ciphertext.
fn blocks(place: Place) -> [Block; 2] {
    [
        place.tweak().to_le_bytes(),
        u128::from(place.vm.0).to_le_bytes(),
    ]
}

/// Makes and checks the tags of one VM's pages.
pub struct PageMac(Keys);

enum Keys {
    Vector(Form, Box<TagSchedule>),
    Soft(Box<soft::Mac>),
}

impl PageMac {
    /// Expands `key` for `implementation`.
    #[must_use]
    pub fn new(implementation: Implementation, key: &MacKey, area: &mut SaveArea) -> Self {
        let form = match implementation.path() {
            Path::Vaes => Form::Vaes,
            Path::AesNi => Form::AesNi,
            Path::Soft => {
                let mac = soft::Mac::new(&key.hash, &key.cipher);
                return Self(Keys::Soft(Box::new(mac)));
            }
        };
        let mut schedule = Box::new(TagSchedule::ZERO);
        let powers = |powers: &mut [Block; TAG_GROUP]| soft::powers_of(&key.hash, powers);
        schedule.fill(powers, &key.cipher, area);
        Self(Keys::Vector(form, schedule))
    }

    /// The tag of `ciphertext` at `place`.
    #[must_use]
    pub fn tag(&self, place: Place, ciphertext: &Page, area: &mut SaveArea) -> Tag {
        let groups = ciphertext.as_chunks().0.as_chunks().0;
        Tag::from_bytes(self.apply(groups, &blocks(place), area))
    }

    /// Checks that `tag` is that of `ciphertext` at `place`, in a time that does not tell where it differs.
    ///
    /// # Errors
    ///
    /// [`TagMismatch`] if it is not: what is there is not what was sealed.
    pub fn verify(
        &self,
        place: Place,
        ciphertext: &Page,
        tag: Tag,
        area: &mut SaveArea,
    ) -> Result<(), TagMismatch> {
        let found = self.tag(place, ciphertext, area).to_bytes();
        if found.ct_eq(&tag.to_bytes()).into() {
            Ok(())
        } else {
            Err(TagMismatch { place })
        }
    }

    fn apply(
        &self,
        groups: &[[Block; TAG_GROUP]],
        last: &[Block; 2],
        area: &mut SaveArea,
    ) -> Block {
        let mut tag = [0; BLOCK_SIZE];
        match &self.0 {
            Keys::Vector(form, schedule) => schedule.apply(*form, groups, last, &mut tag, area),
            Keys::Soft(mac) => mac.apply(groups, last, &mut tag),
        }
        tag
    }
}

/// A sealed page is not the one that was sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TagMismatch {
    /// Where it should have been, and which version.
    pub place: Place,
}

impl fmt::Display for TagMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { vm, gpa, version } = self.place;
        write!(
            f,
            "{vm}, page {gpa}, version {version}: not what was sealed there; stop the VM"
        )
    }
}

impl core::error::Error for TagMismatch {}

#[cfg(test)]
mod tests;
