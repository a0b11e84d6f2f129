//! Answers, taken apart: no byte is believed before it was counted.

use crate::Digest;
use crate::command::{Handle, NO_SESSIONS, SESSIONS};
use crate::error::{Fault, ResponseCode};
use crate::pcr::{PcrSet, PcrValues, SELECT_BYTES, SHA256};
use crate::wire::{Reader, Short};
use core::ops::RangeInclusive;

/// The most bytes of a ticket's digest: a SHA-512.
const MOST_TICKET_DIGEST: usize = 64;
/// Bytes of a ticket's tag and hierarchy.
const TAG_AND_HIERARCHY: usize = 6;
/// The most bytes of a ticket.
pub(crate) const MOST_TICKET_BYTES: usize = TAG_AND_HIERARCHY + 2 + MOST_TICKET_DIGEST;

/// What follows an answer's header.
#[derive(Clone, Copy)]
pub(crate) struct Answer<'a> {
    reader: Reader<'a>,
    sessions: bool,
}

impl<'a> Answer<'a> {
    /// Reads the header of the answer at the front of `buffer` to a command with `sessions` or without.
    pub(crate) fn open(buffer: &'a [u8], sessions: bool) -> Result<Self, Fault> {
        let header = |_| malformed(0, "header");
        let mut reader = Reader::new(buffer);
        let tag = reader.u16().map_err(header)?;
        let size = reader.u32().map_err(header)? as usize;
        let code = reader.u32().map_err(header)?;
        let whole = buffer.get(..size).ok_or(malformed(2, "responseSize"))?;
        if size < reader.position() {
            return Err(malformed(2, "responseSize"));
        }
        if code != 0 {
            return Err(Fault::Refused(ResponseCode(code)));
        }
        if tag != if sessions { SESSIONS } else { NO_SESSIONS } {
            return Err(malformed(0, "tag"));
        }
        let mut reader = Reader::new(whole);
        let _ = reader.take(10);
        Ok(Self { reader, sessions })
    }

    /// The handle that answers of some commands begin with, and the parameters.
    pub(crate) fn handle(mut self) -> Result<(Handle, Parameters<'a>), Fault> {
        let handle = self
            .reader
            .u32()
            .map_err(|short| missing(short, "handle"))?;
        Ok((Handle(handle), self.parameters()?))
    }

    /// The parameters, without the authorisation area that may follow them.
    pub(crate) fn parameters(mut self) -> Result<Parameters<'a>, Fault> {
        if !self.sessions {
            return Ok(Parameters {
                start: self.reader.position(),
                reader: Reader::new(self.reader.rest()),
            });
        }
        let short = |short| missing(short, "parameterSize");
        let size = self.reader.u32().map_err(short)? as usize;
        let start = self.reader.position();
        let parameters = self.reader.take(size).map_err(short)?;
        Ok(Parameters {
            start,
            reader: Reader::new(parameters),
        })
    }
}

/// An answer's parameters.
#[derive(Clone, Copy)]
pub(crate) struct Parameters<'a> {
    reader: Reader<'a>,
    /// Where they begin in the answer.
    start: usize,
}

impl<'a> Parameters<'a> {
    /// The next parameter, a `TPM2B` of so many bytes; `what` is its name.
    pub(crate) fn sized(
        &mut self,
        what: &'static str,
        bytes: RangeInclusive<usize>,
    ) -> Result<&'a [u8], Fault> {
        let at = self.start + self.reader.position();
        match self.reader.sized() {
            Ok(found) if bytes.contains(&found.len()) => Ok(found),
            _ => Err(malformed(at, what)),
        }
    }

    /// The next parameter, a `TPMT_TK_CREATION`, as it is.
    pub(crate) fn ticket(&mut self) -> Result<&'a [u8], Fault> {
        let at = self.start + self.reader.position();
        let whole = self.reader.rest();
        let mut read = || {
            self.reader.take(TAG_AND_HIERARCHY)?;
            self.reader.sized()
        };
        match read().map(<[u8]>::len) {
            Ok(digest @ 1..=MOST_TICKET_DIGEST) => Ok(whole
                .get(..TAG_AND_HIERARCHY + 2 + digest)
                .unwrap_or_default()),
            _ => Err(malformed(at, "creationTicket")),
        }
    }

    /// The parameters of an answer to `TPM2_PCR_Read`: values of some of the PCRs `asked`, put into `values`.
    pub(crate) fn pcr_values(self, asked: PcrSet, values: &mut PcrValues) -> Result<(), Fault> {
        let start = self.start;
        self.read_pcr_values(asked, values)
            .map_err(|fault| match fault {
                Fault::Malformed { at, what } => Fault::Malformed {
                    at: start + at,
                    what,
                },
                other => other,
            })
    }

    fn read_pcr_values(self, asked: PcrSet, values: &mut PcrValues) -> Result<(), Fault> {
        let mut reader = self.reader;
        let selection = |short| missing(short, "pcrSelectionOut");
        let _update_counter = reader
            .u32()
            .map_err(|short| missing(short, "pcrUpdateCounter"))?;
        let at = reader.position();
        // A TPM without such a bank leaves the selection out, or has it select nothing.
        if reader.u32().map_err(selection)? == 0 {
            return Err(Fault::NoBank);
        }
        let bank = reader.u16().map_err(selection)?;
        let count = reader.u8().map_err(selection)?;
        if bank != SHA256 || count != SELECT_BYTES {
            return Err(malformed(at, "pcrSelectionOut"));
        }
        let [low, middle, high] = reader.array().map_err(selection)?;
        let bits = u32::from_le_bytes([low, middle, high, 0]);
        let got = PcrSet::from_bits(bits).unwrap_or_default();
        if got.is_empty() {
            return Err(Fault::NoBank);
        }
        if !got.without(asked).is_empty() {
            return Err(malformed(at, "pcrSelectionOut"));
        }
        let list = |short| missing(short, "pcrValues");
        let at = reader.position();
        if reader.u32().map_err(list)? != got.bits().count_ones() {
            return Err(malformed(at, "pcrValues"));
        }
        for pcr in got.iter() {
            let at = reader.position();
            let value = reader.sized().map_err(list)?;
            let value = value.try_into().map_err(|_| malformed(at, "pcrValues"))?;
            values.put(pcr, Digest(value));
        }
        Ok(())
    }
}

const fn malformed(at: usize, what: &'static str) -> Fault {
    Fault::Malformed { at, what }
}

const fn missing(short: Short, what: &'static str) -> Fault {
    malformed(short.at, what)
}
