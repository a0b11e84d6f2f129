//! The root key: made from everything random that the machine has, and, where the manifest asks for it, kept by the TPM.
//!
//! [`mix`] makes one. [`decide`] says which [`Step`] is next; [`make`] seals a new one, [`unseal`] gets an old one back. What `make`
//! returns was unsealed once, so that nothing takes an older key's place that the next boot does not get back.

use crate::Digest;
use crate::chip::{Secret, Tpm};
use crate::difference::{Difference, List, differences};
use crate::error::TpmError;
use crate::measurement::{Measurement, SEALED_PCRS, describe_pcr};
use crate::pcr::PcrValues;
use crate::sealed::{SealedKey, SealedKeyError, id};
use alloc::vec::Vec;
use core::fmt;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroize;

/// What sets these hashes apart from all others.
const LABEL: &[u8] = b"Bulkhead root key 1";

/// Hashed before a root key to its fingerprint; `docs/events.md` says so.
const FINGERPRINT_LABEL: &[u8] = b"Bulkhead root key fingerprint";

/// What tells root keys apart without telling what they are: nobody finds 256 random bits by their digest.
#[must_use]
pub fn fingerprint(secret: &Secret) -> [u8; 8] {
    let Digest([a, b, c, d, e, f, g, h, ..]) = Digest::of(&[FINGERPRINT_LABEL, &***secret]);
    [a, b, c, d, e, f, g, h]
}

/// Random bytes from independent places; a place that has none is missing.
#[derive(Default)]
pub struct Entropy {
    /// The processor's RDSEED, or RDRAND.
    pub processor: Option<[u8; 32]>,
    /// The firmware's random number generator.
    pub firmware: Option<[u8; 32]>,
    /// The TPM's.
    pub tpm: Option<[u8; 32]>,
}

impl fmt::Display for Entropy {
    /// The places that gave some.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = [
            ("processor", self.processor.is_some()),
            ("firmware", self.firmware.is_some()),
            ("TPM", self.tpm.is_some()),
        ];
        let mut before = "";
        for (name, _) in places.iter().filter(|(_, gave)| *gave) {
            write!(f, "{before}{name}")?;
            before = ", ";
        }
        Ok(())
    }
}

impl Drop for Entropy {
    #[inline(never)]
    fn drop(&mut self) {
        self.processor.zeroize();
        self.firmware.zeroize();
        self.tpm.zeroize();
    }
}

/// A key that nobody can guess who cannot guess all of `entropy`; nothing where there is none.
#[inline(never)]
#[must_use]
pub fn mix(entropy: &Entropy) -> Option<Secret> {
    let Entropy {
        processor,
        firmware,
        tpm,
    } = entropy;
    let places = [processor, firmware, tpm];
    let mut hash = Sha256::new();
    hash.update(LABEL);
    for (number, place) in (0u8..).zip(places) {
        if let Some(bytes) = place {
            hash.update([number]);
            hash.update(bytes);
        }
    }
    let mut secret = Secret::default();
    hash.finalize_into((&mut **secret).into());
    places.iter().any(|place| place.is_some()).then_some(secret)
}

/// What is done about the root key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step<'a> {
    /// A new one is made.
    Make,
    /// This one, which is stored, is unsealed.
    Unseal(&'a [u8]),
}

/// Why there is no root key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RootKeyError {
    /// What is stored under the name `id` cannot be read.
    Unreadable {
        /// Its name.
        id: u32,
        /// Why.
        error: SealedKeyError,
    },
    /// The TPM does not give it out, because these are not as they were.
    Refused {
        /// The sealed key's name.
        id: u32,
        /// What changed; nothing where no difference shows.
        differences: Vec<Difference>,
    },
    /// The TPM did not seal it.
    Foreign {
        /// The sealed key's name.
        id: u32,
        /// What the TPM said.
        error: TpmError,
    },
    /// The TPM gives it out, and this Bulkhead did not make it: somebody put a key of their own there.
    Forged {
        /// The sealed key's name.
        id: u32,
    },
    /// A PCR that a key is to be bound to holds what it held at the reset: whoever boots what finds the same there.
    NotMeasured {
        /// The PCR.
        pcr: u8,
    },
    /// The TPM did not give back what it had just sealed.
    NotGivenBack,
    /// The TPM failed.
    Tpm(TpmError),
}

impl From<TpmError> for RootKeyError {
    fn from(error: TpmError) -> Self {
        Self::Tpm(error)
    }
}

impl fmt::Display for RootKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = match self {
            Self::Tpm(error) => return error.fmt(f),
            Self::NotGivenBack => {
                return f.write_str(
                    "the TPM did not give back the root key that it had sealed a moment before; nothing was stored, and what was stored \
                     is still there",
                );
            }
            Self::NotMeasured { pcr } => {
                return write!(
                    f,
                    "the firmware measured nothing into PCR {pcr} ({}) of the TPM's SHA-256 bank, so no key can be bound to what boots; \
                     have the firmware's settings measure into SHA-256, or write `root_key = \"ephemeral\"`",
                    describe_pcr(*pcr)
                );
            }
            Self::Unreadable { id, error } => {
                write!(f, "the sealed root key {id:08x} cannot be read: {error}")?;
                id
            }
            Self::Foreign { id, error } => {
                write!(
                    f,
                    "the root key {id:08x} was not sealed by this TPM, or the TPM was cleared since: {error}"
                )?;
                id
            }
            Self::Forged { id } => {
                write!(
                    f,
                    "the root key {id:08x} was not made by what boots now: somebody else sealed it, and knows it"
                )?;
                id
            }
            Self::Refused { id, differences } => {
                write!(
                    f,
                    "the TPM keeps the root key {id:08x} back, because not all is as it was when the key was sealed. Different: "
                )?;
                if differences.is_empty() {
                    f.write_str("nothing that was noted then")?;
                }
                List(differences).fmt(f)?;
                id
            }
        };
        write!(
            f,
            ". Put back what it was sealed for; or, if the change was meant, write `reseal = \"{id:08x}\"` into [hypervisor] of the \
             manifest: a new root key is made then, and what only the old one opens is lost"
        )
    }
}

impl core::error::Error for RootKeyError {}

/// What to do, where `stored` is kept, if anything, and the manifest gives up the sealed key named `reseal`.
#[must_use]
pub fn decide(stored: Option<&[u8]>, reseal: Option<u32>) -> Step<'_> {
    match stored {
        Some(bytes) if reseal != Some(id(bytes)) => Step::Unseal(bytes),
        _ => Step::Make,
    }
}

/// What the PCRs hold that a key is bound to, each of which something was measured into: a firmware that fills another bank leaves
/// this one as the reset made it, and a key sealed for that would be given out to everybody.
fn sealed_pcrs(tpm: &mut Tpm<'_>) -> Result<PcrValues, RootKeyError> {
    let pcrs = tpm.pcrs(SEALED_PCRS)?;
    let untouched = pcrs.iter().find(|(_, value)| value.is_untouched());
    match untouched.map(|(pcr, _)| pcr) {
        Some(pcr) => Err(RootKeyError::NotMeasured { pcr }),
        None => Ok(pcrs),
    }
}

/// Seals `secret` for what was measured up to now, and has the TPM give it back once.
///
/// # Errors
/// [`RootKeyError::Tpm`], [`RootKeyError::NotMeasured`], [`RootKeyError::NotGivenBack`].
pub fn make(
    tpm: &mut Tpm<'_>,
    secret: &Secret,
    measured: &[Measurement],
) -> Result<Vec<u8>, RootKeyError> {
    let pcrs = sealed_pcrs(tpm)?;
    let object = tpm.seal(secret, &pcrs)?;
    let sealed = SealedKey {
        pcrs,
        object,
        measurements: measured.to_vec(),
        complete: true,
    };
    let stored = sealed.encode();
    match unseal(tpm, &stored, measured) {
        Ok(given) if given == *secret => Ok(stored),
        Err(RootKeyError::Tpm(error)) => Err(error.into()),
        _ => Err(RootKeyError::NotGivenBack),
    }
}

/// Gets the key back of which `stored` is kept.
///
/// # Errors
/// [`RootKeyError`]: what differs, where the TPM does not give it out.
pub fn unseal(
    tpm: &mut Tpm<'_>,
    stored: &[u8],
    measured: &[Measurement],
) -> Result<Secret, RootKeyError> {
    let id = id(stored);
    let sealed =
        SealedKey::decode(stored).map_err(|error| RootKeyError::Unreadable { id, error })?;
    let pcrs = sealed_pcrs(tpm)?;
    match tpm.unseal(&sealed.object, SEALED_PCRS) {
        // Anyone who knows which values a policy asks for can seal for it; only who boots as we did was there with such values.
        Ok(secret) if sealed.object.was_made_with(&pcrs) => Ok(secret),
        Ok(_) => Err(RootKeyError::Forged { id }),
        Err(error) if error.is_forged() => Err(RootKeyError::Forged { id }),
        Err(error) if error.is_policy() => Err(RootKeyError::Refused {
            id,
            differences: differences(&sealed, measured, &pcrs),
        }),
        Err(error) if error.is_foreign() => Err(RootKeyError::Foreign { id, error }),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
