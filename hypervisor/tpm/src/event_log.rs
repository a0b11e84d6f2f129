//! The firmware's log of what it measured, in the crypto-agile format ("TCG PC Client Platform Firmware Profile", "Event Logging").
//!
//! [`EventLog::parse`] reads its head, [`EventLog::events`] the events, [`EventLog::replay`] does what the TPM did, so that the result
//! can be compared with what its PCRs hold. [`length`] finds where a log ends of which the firmware only says where the last event
//! begins. Unlike the TPM's own structures, the log's are little-endian.

use crate::Digest;
use crate::pcr::{PCRS, PcrValues, SHA256};
use alloc::vec::Vec;
use core::fmt;

/// `EV_NO_ACTION`: an event that nothing was extended by.
const NO_ACTION: u32 = 3;
/// The name of the first event, and of the one that says from which locality the firmware started the TPM.
const SPEC_ID: [u8; 16] = *b"Spec ID Event03\0";
const STARTUP_LOCALITY: [u8; 16] = *b"StartupLocality\0";
/// The digest of the first event, which has the older format.
const SHA1_BYTES: usize = 20;
/// The most algorithms a log can name; there are five.
const MOST_ALGORITHMS: u32 = 16;

/// A log, whose head was read.
#[derive(Clone, Debug)]
pub struct EventLog<'a> {
    bytes: &'a [u8],
    /// Each algorithm with the bytes of its digests.
    algorithms: Vec<(u16, usize)>,
    /// Where the events begin.
    start: usize,
}

/// One event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoggedEvent<'a> {
    /// The PCR it was measured into.
    pub pcr: u32,
    /// Its type, as the profile numbers them.
    pub kind: u32,
    /// What the PCR of the SHA-256 bank was extended by; nothing where that bank is off.
    pub sha256: Option<Digest>,
    /// What the event says of itself.
    pub data: &'a [u8],
}

/// Bytes that are no such log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogError {
    /// The byte from which on they are not.
    pub at: usize,
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the firmware's event log is damaged, or not crypto-agile, at byte {}",
            self.at
        )
    }
}

impl core::error::Error for LogError {}

impl<'a> EventLog<'a> {
    /// Reads the head of the log that `bytes` begin with.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, LogError> {
        let mut cursor = Cursor { bytes, at: 0 };
        let pcr = cursor.u32()?;
        let kind = cursor.u32()?;
        cursor.take(SHA1_BYTES)?;
        let size = cursor.u32()? as usize;
        let head = cursor.at;
        let mut inner = Cursor {
            bytes: bytes.get(..head.saturating_add(size)).unwrap_or(bytes),
            at: head,
        };
        if pcr != 0 || kind != NO_ACTION || inner.take(SPEC_ID.len())? != SPEC_ID {
            return Err(LogError { at: 0 });
        }
        // Platform class, version of the profile, size of addresses.
        inner.take(8)?;
        let count = inner.u32()?;
        if count > MOST_ALGORITHMS {
            return Err(LogError { at: inner.at });
        }
        let mut algorithms = Vec::new();
        for _ in 0..count {
            algorithms.push((inner.u16()?, usize::from(inner.u16()?)));
        }
        cursor.take(size)?;
        Ok(Self {
            bytes,
            algorithms,
            start: cursor.at,
        })
    }

    /// The events after the head, up to the first that is damaged.
    pub fn events(&self) -> impl Iterator<Item = Result<LoggedEvent<'a>, LogError>> {
        let mut cursor = Some(Cursor {
            bytes: self.bytes,
            at: self.start,
        });
        core::iter::from_fn(move || {
            let mut here = cursor
                .take()
                .filter(|cursor| cursor.at < cursor.bytes.len())?;
            let event = self.event(&mut here);
            if event.is_ok() {
                cursor = Some(here);
            }
            Some(event)
        })
    }

    /// What the PCRs of the SHA-256 bank hold after all this; those that nothing was measured into are missing.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn replay(&self) -> Result<PcrValues, LogError> {
        let mut values = PcrValues::default();
        for event in self.events() {
            let event = event?;
            let pcr = u8::try_from(event.pcr).ok().filter(|pcr| *pcr < PCRS);
            if event.kind == NO_ACTION {
                if let (Some(0), Some(locality)) = (pcr, startup_locality(event.data)) {
                    let mut first = Digest::default();
                    if let Some(last) = first.0.last_mut() {
                        *last = locality;
                    }
                    values.put(0, first);
                }
                continue;
            }
            if let (Some(pcr), Some(digest)) = (pcr, event.sha256) {
                values.extend(pcr, &digest.0);
            }
        }
        Ok(values)
    }

    fn event(&self, cursor: &mut Cursor<'a>) -> Result<LoggedEvent<'a>, LogError> {
        let pcr = cursor.u32()?;
        let kind = cursor.u32()?;
        let count = cursor.u32()?;
        let mut sha256 = None;
        for _ in 0..count {
            let at = cursor.at;
            let algorithm = cursor.u16()?;
            let known = self.algorithms.iter().find(|(id, _)| *id == algorithm);
            let (_, bytes) = known.ok_or(LogError { at })?;
            let digest = cursor.take(*bytes)?;
            if algorithm == SHA256 {
                sha256 = Some(Digest(digest.try_into().map_err(|_| LogError { at })?));
            }
        }
        let size = cursor.u32()? as usize;
        Ok(LoggedEvent {
            pcr,
            kind,
            sha256,
            data: cursor.take(size)?,
        })
    }
}

/// The bytes of the log at the front of `bytes` whose last event begins at byte `last`.
///
/// # Errors
/// [`LogError`]: the log is damaged, or no event begins there.
pub fn length(bytes: &[u8], last: usize) -> Result<usize, LogError> {
    let log = EventLog::parse(bytes)?;
    let mut cursor = Cursor {
        bytes,
        at: log.start,
    };
    // Only its head: the one event that has the older format.
    if last == 0 {
        return Ok(cursor.at);
    }
    while cursor.at < last {
        log.event(&mut cursor)?;
    }
    if cursor.at != last {
        return Err(LogError { at: last });
    }
    log.event(&mut cursor)?;
    Ok(cursor.at)
}

/// The locality that the event with `data` says the TPM was started from.
fn startup_locality(data: &[u8]) -> Option<u8> {
    match data.split_at_checked(STARTUP_LOCALITY.len())? {
        (name, [locality]) if name == STARTUP_LOCALITY => Some(*locality),
        _ => None,
    }
}

/// Reads little-endian numbers.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], LogError> {
        let error = LogError { at: self.at };
        let end = self.at.checked_add(count).ok_or(error)?;
        let taken = self.bytes.get(self.at..end).ok_or(error)?;
        self.at = end;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, LogError> {
        let error = LogError { at: self.at };
        let bytes = self.take(2)?.try_into().map_err(|_| error)?;
        Ok(u16::from_le_bytes(bytes))
    }

    fn u32(&mut self) -> Result<u32, LogError> {
        let error = LogError { at: self.at };
        let bytes = self.take(4)?.try_into().map_err(|_| error)?;
        Ok(u32::from_le_bytes(bytes))
    }
}

#[cfg(test)]
mod tests;
