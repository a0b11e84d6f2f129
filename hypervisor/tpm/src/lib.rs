//! The TPM 2.0: what is measured into it, and the root key that it gives out to what was measured only.
//!
//! A TPM is a device like any other: what it answers is parsed by checked reads, and a wrong answer is an error that says which
//! command, what and where. Commands travel through a [`Transport`]; the shell's is the firmware's TCG2 protocol.
//!
//! | module | what it holds |
//! |---|---|
//! | [`measurement`] | what is measured into which PCR, and why into that one |
//! | [`pcr`] | sets of PCRs, their values, the policy that asks for such values |
//! | [`root_key`] | making, sealing and unsealing the root key: what the shell calls |
//! | [`sealed`] | what is kept of a sealed key from boot to boot |
//! | [`difference`] | what changed since a key was sealed |
//! | [`event_log`] | the firmware's log of measurements, replayed to values of PCRs |
//! | `chip`, `command`, `response`, [`error`], `wire` | the commands that this needs, their answers, bytes |
//!
//! Names follow the "Trusted Platform Module Library", part 2 "Structures" and part 3 "Commands". `docs/tpm.md` is the page for users.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

extern crate alloc;

mod chip;
mod command;
pub mod difference;
pub mod error;
pub mod event_log;
pub mod measurement;
pub mod pcr;
mod response;
pub mod root_key;
pub mod sealed;
#[cfg(test)]
mod testing;
mod wire;

use core::fmt;
use sha2::{Digest as _, Sha256};

pub use chip::{SealedObject, Secret, Tpm, Transport};
pub use error::TpmError;
pub use measurement::{Measurement, What};
pub use pcr::{PcrSet, PcrValues};

/// Bytes of a SHA-256.
pub const DIGEST_BYTES: usize = 32;

/// A SHA-256: of something measured, or the value of a PCR.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest(pub [u8; DIGEST_BYTES]);

impl Digest {
    /// The digest of `parts`, one after the other.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// Whether a PCR that holds this was never extended: a reset makes it all zeros, or all ones.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        [[0x00; DIGEST_BYTES], [0xff; DIGEST_BYTES]].contains(&self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Hex(&self.0), f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Hex(&self.0), f)
    }
}

/// Bytes as hexadecimal digits.
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
