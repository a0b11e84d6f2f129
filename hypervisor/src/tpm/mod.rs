//! The TPM, before the firmware is left: [`Measured`] measures what boots, [`root_key`] gets the root key, [`firmware`] is the way to the chip.
//!
//! What is measured where, and what a TPM's answer means, is decided in `bulkhead_core::tpm`.

mod firmware;
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

    /// Ends what can be measured as part of Bulkhead, so that nobody can ask for the root key after this, and tells the whole log
    /// with what the PCRs hold.
    pub fn close(mut self) {
        let Some(firmware) = &mut self.firmware else {
            return;
        };
        for pcr in OWN_PCRS.iter() {
            // The data of "EV_SEPARATOR" in "TCG PC Client Platform Firmware Profile".
            if let Err(status) = firmware.measure(pcr, EventType::SEPARATOR, &[0; 4], &[0; 4]) {
                log::warn!("PCR {pcr} could not be closed: {status}");
            }
        }
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
}
