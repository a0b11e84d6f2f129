//! What Bulkhead measures, and into which PCR.
//!
//! The numbers keep to what the UAPI group's "Linux TPM PCR Registry" says of those that boot software uses: 11 for what is started
//! as one unified image, 12 for its configuration, 13 for files that are added to it. Bulkhead's image, manifest and payloads are just
//! that, and nothing that fills those PCRs otherwise runs before it or beside it: guests have no TPM.

use crate::Digest;
use crate::pcr::PcrSet;
use alloc::string::String;
use core::fmt;

/// The PCR of `bulkhead.efi`, as a file. PCR 4 has it too, as the firmware loaded it.
pub const IMAGE_PCR: u8 = 11;
/// The PCR of the manifest.
pub const MANIFEST_PCR: u8 = 12;
/// The PCR of the payloads, in the order in which the manifest first names them.
pub const PAYLOAD_PCR: u8 = 13;

/// Those that Bulkhead measures into. They are closed, by a separator, once the root key was taken.
pub const OWN_PCRS: PcrSet = PcrSet::of(&[IMAGE_PCR, MANIFEST_PCR, PAYLOAD_PCR]);

/// Those whose values a sealed key asks for: the firmware's code (0), code of cards (2), boot loaders (4), the state of Secure Boot (7),
/// and Bulkhead's own. Settings, boot order and partitions (1, 3, 5, 6) change without what runs being another.
pub const SEALED_PCRS: PcrSet = PcrSet::of(&[0, 2, 4, 7, IMAGE_PCR, MANIFEST_PCR, PAYLOAD_PCR]);

/// What was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// `bulkhead.efi`.
    Image,
    /// The manifest.
    Manifest,
    /// A file that the manifest names, by its path.
    Payload(String),
}

/// Something measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// What it is of.
    pub what: What,
    /// The SHA-256 of its bytes.
    pub digest: Digest,
}

impl What {
    /// The PCR that it goes into.
    #[must_use]
    pub const fn pcr(&self) -> u8 {
        match self {
            Self::Image => IMAGE_PCR,
            Self::Manifest => MANIFEST_PCR,
            Self::Payload(_) => PAYLOAD_PCR,
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image => f.write_str("image"),
            Self::Manifest => f.write_str("manifest"),
            Self::Payload(path) => write!(f, "payload `{path}`"),
        }
    }
}

/// What a PCR of the firmware's holds ("TCG PC Client Platform Firmware Profile", "PCR Usage").
#[must_use]
pub const fn describe_pcr(pcr: u8) -> &'static str {
    match pcr {
        0 => "the firmware's code",
        1 => "the firmware's settings",
        2 => "code of cards",
        3 => "settings of cards",
        4 => "what the firmware started",
        5 => "boot order and partitions",
        7 => "Secure Boot",
        IMAGE_PCR => "image",
        MANIFEST_PCR => "manifest",
        PAYLOAD_PCR => "payloads",
        _ => "the platform",
    }
}
