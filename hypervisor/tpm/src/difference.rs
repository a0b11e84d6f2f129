//! What changed between the sealing of a key and now: the answer to "why does the TPM not give it out".

use crate::measurement::{Measurement, OWN_PCRS, PAYLOAD_PCR, What, describe_pcr};
use crate::pcr::PcrValues;
use crate::sealed::SealedKey;
use alloc::vec::Vec;
use core::fmt;

/// One thing that is not as it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Difference {
    /// Its contents changed.
    Changed(What),
    /// It was measured then, and is not now.
    Gone(What),
    /// It was not measured then.
    New(What),
    /// A PCR of the firmware's has another value.
    Firmware(u8),
    /// A PCR of Bulkhead's has another value, though nothing that was measured into it is different: the order is, or another
    /// program measured into it.
    Unexplained(u8),
    /// The same, where not all that was measured then was noted: it may be one of the others, too.
    Unnoted(u8),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed(what) => write!(f, "{what} (changed)"),
            Self::Gone(what) => write!(f, "{what} (not there any more)"),
            Self::New(what) => write!(f, "{what} (new)"),
            Self::Firmware(pcr) => write!(f, "PCR {pcr}: {}", describe_pcr(*pcr)),
            Self::Unexplained(pcr) => write!(
                f,
                "PCR {pcr}: {}, in another order, or something else measured into it",
                describe_pcr(*pcr)
            ),
            Self::Unnoted(pcr) => write!(
                f,
                "PCR {pcr}: {}, one of those that there was no room to note, in another order, or something else measured into it",
                describe_pcr(*pcr)
            ),
        }
    }
}

/// What is different, Bulkhead's own measurements first: `measured` has been measured now, and `pcrs` have these values.
#[must_use]
pub fn differences(
    sealed: &SealedKey,
    measured: &[Measurement],
    pcrs: &PcrValues,
) -> Vec<Difference> {
    let mut found = Vec::new();
    for old in &sealed.measurements {
        match measured.iter().find(|new| new.what == old.what) {
            None => found.push(Difference::Gone(old.what.clone())),
            Some(new) if new.digest != old.digest => {
                found.push(Difference::Changed(old.what.clone()));
            }
            Some(_) => {}
        }
    }
    if sealed.complete {
        let is_new =
            |new: &&Measurement| !sealed.measurements.iter().any(|old| old.what == new.what);
        let new = measured.iter().filter(is_new);
        found.extend(new.map(|new| Difference::New(new.what.clone())));
    }
    let explained = |found: &[Difference], pcr| {
        found.iter().any(|difference| match difference {
            Difference::Changed(what) | Difference::Gone(what) | Difference::New(what) => {
                what.pcr() == pcr
            }
            Difference::Firmware(_) | Difference::Unexplained(_) | Difference::Unnoted(_) => false,
        })
    };
    for (pcr, value) in sealed.pcrs.iter() {
        if pcrs.get(pcr) == Some(value) {
            continue;
        }
        if !OWN_PCRS.has(pcr) {
            found.push(Difference::Firmware(pcr));
        } else if !explained(&found, pcr) {
            // Payloads come last: they are what has no room.
            found.push(match sealed.complete || pcr != PAYLOAD_PCR {
                true => Difference::Unexplained(pcr),
                false => Difference::Unnoted(pcr),
            });
        }
    }
    found
}

/// Differences as one reads them: separated by semicolons.
pub struct List<'a>(pub &'a [Difference]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, difference) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            difference.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
