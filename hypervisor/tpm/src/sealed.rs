//! What is kept of a sealed root key from boot to boot: [`SealedKey`], and its form as bytes.
//!
//! No byte of it is secret: the key is encrypted by the TPM. The measurements are those of the moment of sealing. They are there to
//! say later what changed, and decide nothing: that does the policy, which the TPM keeps inside the object.

use crate::Digest;
use crate::chip::{MOST_OBJECT_BYTES, SealedObject};
use crate::measurement::{Measurement, What};
use crate::pcr::{PcrSet, PcrValues};
use crate::wire::{Reader, Short};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// `BulkSeal`, and the version of what follows.
const MAGIC: [u8; 8] = *b"BulkSeal";
const VERSION: u16 = 1;
/// The most bytes: what a firmware surely keeps in one variable.
pub const MOST_BYTES: usize = 4096;
/// The most bytes of a payload's name.
const MOST_NAME_BYTES: usize = 256;

/// A sealed root key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealedKey {
    /// What its policy asks for: values of PCRs when it was sealed.
    pub pcrs: PcrValues,
    /// What the TPM made of it.
    pub object: SealedObject,
    /// What had been measured then; the first of them where all do not fit.
    pub measurements: Vec<Measurement>,
    /// All of them are there.
    pub complete: bool,
}

/// Why bytes are no sealed key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SealedKeyError {
    /// They do not begin as one.
    NotOne,
    /// Another version of Bulkhead wrote it, in this form.
    Version(u16),
    /// They are damaged, from this byte on.
    Damaged(usize),
}

impl From<Short> for SealedKeyError {
    fn from(short: Short) -> Self {
        Self::Damaged(short.at)
    }
}

impl fmt::Display for SealedKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOne => f.write_str("it is none of Bulkhead's"),
            Self::Version(version) => write!(
                f,
                "it is of version {version}, and this Bulkhead reads {VERSION}; boot the one that wrote it"
            ),
            Self::Damaged(at) => write!(f, "it is damaged at byte {at}"),
        }
    }
}

/// The name of the sealed key with these bytes, whether or not they are one: 32 bits of their SHA-256.
#[must_use]
pub fn id(bytes: &[u8]) -> u32 {
    let Digest([a, b, c, d, ..]) = Digest::of(&[bytes]);
    u32::from_be_bytes([a, b, c, d])
}

impl SealedKey {
    /// As bytes, at most [`MOST_BYTES`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::from(MAGIC);
        bytes.extend(VERSION.to_be_bytes());
        bytes.extend(self.pcrs.set().bits().to_be_bytes());
        for (_, value) in self.pcrs.iter() {
            bytes.extend(value.0);
        }
        let SealedObject {
            public,
            private,
            creation,
            ticket,
        } = &self.object;
        for part in [public, private, creation, ticket] {
            bytes.extend((part.len() as u16).to_be_bytes());
            bytes.extend(part);
        }
        let place = bytes.len();
        bytes.extend([0; 3]);
        let mut count: u16 = 0;
        for measurement in &self.measurements {
            if !append(&mut bytes, measurement) {
                break;
            }
            count += 1;
        }
        let complete = self.complete && usize::from(count) == self.measurements.len();
        let [high, low] = count.to_be_bytes();
        if let Some(head) = bytes.get_mut(place..place + 3) {
            head.copy_from_slice(&[u8::from(complete), high, low]);
        }
        bytes
    }

    /// Reads them back.
    ///
    /// # Errors
    /// [`SealedKeyError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, SealedKeyError> {
        let mut reader = Reader::new(bytes);
        if reader.array() != Ok(MAGIC) {
            return Err(SealedKeyError::NotOne);
        }
        let version = reader.u16()?;
        if version != VERSION {
            return Err(SealedKeyError::Version(version));
        }
        let damaged = |at| SealedKeyError::Damaged(at);
        let at = reader.position();
        let set = PcrSet::from_bits(reader.u32()?).ok_or(damaged(at))?;
        let mut pcrs = PcrValues::default();
        for pcr in set.iter() {
            pcrs.put(pcr, Digest(reader.array()?));
        }
        let mut part = || object_part(&mut reader);
        let object = SealedObject {
            public: part()?,
            private: part()?,
            creation: part()?,
            ticket: part()?,
        };
        let at = reader.position();
        let complete = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(damaged(at)),
        };
        let mut measurements = Vec::new();
        for _ in 0..reader.u16()? {
            measurements.push(measurement(&mut reader)?);
        }
        if !reader.rest().is_empty() {
            return Err(damaged(reader.position()));
        }
        Ok(Self {
            pcrs,
            object,
            measurements,
            complete,
        })
    }
}

/// What a measurement is of, as a byte.
const IMAGE: u8 = 0;
const MANIFEST: u8 = 1;
const PAYLOAD: u8 = 2;

/// Writes `measurement`, if there is room for it.
fn append(bytes: &mut Vec<u8>, measurement: &Measurement) -> bool {
    let (kind, name) = match &measurement.what {
        What::Image => (IMAGE, ""),
        What::Manifest => (MANIFEST, ""),
        What::Payload(path) => (PAYLOAD, path.as_str()),
    };
    let Ok(length) = u16::try_from(name.len()) else {
        return false;
    };
    if kind == PAYLOAD && !is_name(name.as_bytes()) {
        return false;
    }
    if bytes.len() + 3 + name.len() + measurement.digest.0.len() > MOST_BYTES {
        return false;
    }
    bytes.push(kind);
    bytes.extend(length.to_be_bytes());
    bytes.extend(name.as_bytes());
    bytes.extend(measurement.digest.0);
    true
}

fn measurement(reader: &mut Reader<'_>) -> Result<Measurement, SealedKeyError> {
    let at = reader.position();
    let kind = reader.u8()?;
    let name = reader.sized()?;
    let what = match (kind, str::from_utf8(name)) {
        (IMAGE, Ok("")) => What::Image,
        (MANIFEST, Ok("")) => What::Manifest,
        (PAYLOAD, Ok(path)) if is_name(name) => What::Payload(String::from(path)),
        _ => return Err(SealedKeyError::Damaged(at)),
    };
    let digest = Digest(reader.array()?);
    Ok(Measurement { what, digest })
}

/// Whether `name` may be that of a payload: errors print it, and whoever can write the variable chose it. What the manifest allows is
/// printable ASCII, too, and shorter.
fn is_name(name: &[u8]) -> bool {
    let printable = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    (1..=MOST_NAME_BYTES).contains(&name.len()) && name.iter().all(printable)
}

fn object_part(reader: &mut Reader<'_>) -> Result<Vec<u8>, SealedKeyError> {
    let at = reader.position();
    let part = reader.sized()?;
    if part.len() > MOST_OBJECT_BYTES {
        return Err(SealedKeyError::Damaged(at));
    }
    Ok(part.to_vec())
}

#[cfg(test)]
mod tests;
