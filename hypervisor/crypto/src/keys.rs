//! Keys: from the machine's root key to what one VM's pages are sealed with.
//!
//! HKDF-SHA-256 (RFC 5869) extracts once from the root key, and expands for each purpose with an info that names the purpose, the VM
//! and the generation, and has random bytes that only this life of the VM has. So no two VMs, no two lives of one VM and no two purposes share a key, and a key that
//! becomes known tells nothing of another.
//!
//! Keys lie in boxes, are filled there and zeroized when they are dropped: a value that is moved leaves a copy behind.
//! What SHA-256 leaves on the stack while it derives is not wiped by the library.

use alloc::boxed::Box;
use bulkhead_core::ledger::VmId;
use core::fmt;
use hkdf::Hkdf;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Changes whenever what is derived, or what it is used for, does.
const SALT: &[u8] = b"Bulkhead secmem 1";

/// The key that all others come from: one for a boot, or for a machine where a TPM keeps it.
#[derive(ZeroizeOnDrop)]
pub struct RootKey([u8; 32]);

impl RootKey {
    /// Takes the key out of `bytes`, where zeroes remain. They are uniformly random, or a secret with 256 bits of entropy.
    #[must_use]
    pub fn take(bytes: &mut [u8; 32]) -> Box<Self> {
        let mut key = Box::new(Self([0; 32]));
        key.0.copy_from_slice(bytes);
        bytes.zeroize();
        key
    }
}

/// What one life of a VM is sealed with.
#[derive(ZeroizeOnDrop)]
pub struct VmKeys {
    xts: XtsKey,
    mac: MacKey,
}

/// The 512-bit key of AES-256-XTS.
#[derive(ZeroizeOnDrop)]
pub struct XtsKey {
    /// Key 1 of IEEE 1619: encrypts the data.
    pub(crate) data: [u8; 32],
    /// Key 2 of IEEE 1619: encrypts the tweak.
    pub(crate) tweak: [u8; 32],
}

/// The key of a page's tag.
#[derive(ZeroizeOnDrop)]
pub struct MacKey {
    /// What POLYVAL multiplies by.
    pub(crate) hash: [u8; 16],
    /// What AES-256 encrypts the hash with.
    pub(crate) cipher: [u8; 32],
}

impl VmKeys {
    /// The keys of `vm` in its life number `generation`, into which `fresh` random bytes go: once keys and bytes are wiped, not even
    /// the root key brings them back. The same four give the same keys.
    ///
    /// # Errors
    ///
    /// [`EqualHalves`], once in 2^256 derivations.
    pub fn derive(
        root: &RootKey,
        vm: VmId,
        generation: u64,
        fresh: &[u8; 32],
    ) -> Result<Box<Self>, EqualHalves> {
        let mut keys = Box::new(Self {
            xts: XtsKey {
                data: [0; 32],
                tweak: [0; 32],
            },
            mac: MacKey {
                hash: [0; 16],
                cipher: [0; 32],
            },
        });
        let hkdf = Hkdf::<Sha256>::new(Some(SALT), &root.0);
        let outputs: [(&[u8], &mut [u8]); 4] = [
            (b"xts data", &mut keys.xts.data),
            (b"xts tweak", &mut keys.xts.tweak),
            (b"tag hash", &mut keys.mac.hash),
            (b"tag cipher", &mut keys.mac.cipher),
        ];
        for (purpose, output) in outputs {
            let vm = vm.0.to_le_bytes();
            let info: [&[u8]; 4] = [purpose, &vm, &generation.to_le_bytes(), fresh];
            let expanded = hkdf.expand_multi_info(&info, output);
            assert!(
                expanded.is_ok(),
                "HKDF expands to 8160 bytes, and this is 32"
            );
        }
        keys.xts.check()?;
        Ok(keys)
    }

    /// What pages are encrypted with.
    #[must_use]
    pub const fn xts(&self) -> &XtsKey {
        &self.xts
    }

    /// What pages are authenticated with.
    #[must_use]
    pub const fn mac(&self) -> &MacKey {
        &self.mac
    }
}

impl XtsKey {
    /// Refuses equal halves, with which XTS does not hide what it should: FIPS 140-3 implementation guidance, "XTS-AES key
    /// generation requirements". Keys of zeroes, which a derivation that did not happen would leave, are such keys too.
    fn check(&self) -> Result<(), EqualHalves> {
        if self.data.ct_eq(&self.tweak).into() {
            Err(EqualHalves)
        } else {
            Ok(())
        }
    }
}

/// Both halves of an XTS key are the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EqualHalves;

impl fmt::Display for EqualHalves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the halves of a VM's XTS key are equal; take the next generation")
    }
}

impl core::error::Error for EqualHalves {}

#[cfg(test)]
mod tests;
