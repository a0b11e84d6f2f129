//! Events about the TPM: what was measured, where the root key comes from, the log of all measurements.

use core::fmt;

use super::json::Object;
use crate::tpm::{Digest, Hex, What};

/// Something was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured<'a> {
    /// What.
    pub what: &'a What,
    /// Its digest.
    pub digest: &'a Digest,
}

/// There is a root key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootKeyOrigin<'a> {
    /// Where it comes from.
    pub origin: &'a str,
    /// The name under which it is sealed, where it is.
    pub seal: Option<u32>,
    /// Tells it from others; one that nobody meets again has none.
    pub fingerprint: Option<[u8; 8]>,
}

/// What a PCR holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PcrValue<'a> {
    /// Its number.
    pub pcr: u8,
    /// Its value in the SHA-256 bank.
    pub value: &'a Digest,
}

/// A piece of the firmware's event log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPiece<'a> {
    /// Where in the log it begins.
    pub at: usize,
    /// How long the log is.
    pub of: usize,
    /// The piece.
    pub bytes: &'a [u8],
}

impl Measured<'_> {
    pub(super) fn write(&self, object: &mut Object<'_>) -> fmt::Result {
        object.number("pcr", self.what.pcr().into())?;
        object.text("what", self.what)?;
        object.text("sha256", self.digest)
    }
}

impl RootKeyOrigin<'_> {
    pub(super) fn write(&self, object: &mut Object<'_>) -> fmt::Result {
        object.text("origin", &self.origin)?;
        match self.seal {
            Some(seal) => object.text("seal", &format_args!("{seal:08x}"))?,
            None => object.text("seal", &"")?,
        }
        match &self.fingerprint {
            Some(bytes) => object.text("fingerprint", &Hex(bytes)),
            None => object.text("fingerprint", &""),
        }
    }
}

impl PcrValue<'_> {
    pub(super) fn write(&self, object: &mut Object<'_>) -> fmt::Result {
        object.number("pcr", self.pcr.into())?;
        object.text("sha256", self.value)
    }
}

impl LogPiece<'_> {
    pub(super) fn write(&self, object: &mut Object<'_>) -> fmt::Result {
        object.number("at", self.at as u64)?;
        object.number("of", self.of as u64)?;
        object.text("bytes", &Hex(self.bytes))
    }
}
