//! The TPM, before the firmware is left: [`Measured`] measures what boots, [`root_key`] gets the root key, [`firmware`] is the way to the chip;
//! [`memory_overwrite`] has memory cleared at the next reset.
//!
//! Who ends has closed: [`Measured`] closes its PCRs when it is dropped, so no way out of reading what boots leaves the key to be asked for.
//!
//! What is measured where, and what a TPM's answer means, is decided in `bulkhead_core::tpm`.

mod firmware;
mod memory_overwrite;
pub mod root_key;

use crate::events::send;
use alloc::string::ToString;
use alloc::vec::Vec;
use bulkhead_core::events::{Event, LogPiece, Measured as MeasuredEvent, PcrValue};
use bulkhead_core::tpm::measurement::{Measurement, OWN_PCRS, What};
use bulkhead_core::tpm::{Digest, PcrSet, Tpm};
use firmware::Firmware;
use uefi::Status;
use uefi::proto::tcg::EventType;

/// Bytes of the event log in one event.
const LOG_PIECE: usize = 512;
/// The PCRs whose values are told: those of the firmware and of boot software.
const TOLD_PCRS: u32 = 0xffff;

/// What was measured at this boot, and the TPM that has it.
pub struct Measured {
    firmware: Option<Firmware>,
    list: Vec<Measurement>,
    /// What could not be measured, and why.
    missed: Option<(What, Status)>,
}

impl Measured {
    /// Looks for a TPM. Without one, measuring does nothing.
    pub fn begin() -> Self {
        let firmware = Firmware::find();
        log::info!(
            "TPM 2.0: {}",
            match firmware {
                Some(_) => "there; what boots is measured into PCRs 11 to 13",
                None => "none",
            }
        );
        Self {
            firmware,
            list: Vec::new(),
            missed: None,
        }
    }

    /// Whether there is a TPM.
    pub const fn has_tpm(&self) -> bool {
        self.firmware.is_some()
    }

    /// Measures `bytes`, which are `what`; their digest, if there is a TPM.
    pub fn add(&mut self, what: What, bytes: &[u8]) -> Option<Digest> {
        let firmware = self.firmware.as_mut()?;
        let digest = Digest::of(&[bytes]);
        let text = what.to_string();
        match firmware.measure(what.pcr(), EventType::IPL, bytes, text.as_bytes()) {
            Ok(()) => {
                send(&Event::Measurement(MeasuredEvent {
                    what: &what,
                    digest: &digest,
                }));
                self.list.push(Measurement { what, digest });
            }
            Err(status) => self.miss(what, status),
        }
        Some(digest)
    }

    /// Notes that `what` could not be measured.
    pub fn miss(&mut self, what: What, status: Status) {
        log::warn!("{what} could not be measured into the TPM: {status}");
        self.missed.get_or_insert((what, status));
    }

    /// Closes the PCRs, as dropping does; false where there is a TPM and none could be closed.
    #[must_use]
    pub fn close(mut self) -> bool {
        self.end()
    }

    /// Ends what can be measured as part of Bulkhead, so that nobody can ask for the root key after this, and tells the whole log
    /// with what the PCRs hold. Each of the PCRs is in the policy: one that is closed suffices.
    fn end(&mut self) -> bool {
        let Some(mut firmware) = self.firmware.take() else {
            return true;
        };
        let mut closed = false;
        for pcr in OWN_PCRS.iter() {
            // The data of "EV_SEPARATOR" in "TCG PC Client Platform Firmware Profile".
            match firmware.measure(pcr, EventType::SEPARATOR, &[0; 4], &[0; 4]) {
                Ok(()) => closed = true,
                Err(status) => log::warn!("PCR {pcr} could not be closed: {status}"),
            }
        }
        tell(&mut firmware);
        closed
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.end();
    }
}

/// Tells what the PCRs hold, and the log that says how that came to be.
fn tell(firmware: &mut Firmware) {
    let set = PcrSet::from_bits(TOLD_PCRS).unwrap_or_default();
    match Tpm::new(firmware).pcrs(set) {
        Ok(values) => values
            .iter()
            .for_each(|(pcr, value)| send(&Event::TpmPcr(PcrValue { pcr, value }))),
        Err(error) => log::warn!("{error}"),
    }
    match firmware.event_log() {
        Ok(log) => {
            for (number, piece) in log.chunks(LOG_PIECE).enumerate() {
                send(&Event::TpmLog(LogPiece {
                    at: number * LOG_PIECE,
                    of: log.len(),
                    bytes: piece,
                }));
            }
        }
        Err(error) => log::warn!("{error}"),
    }
}
