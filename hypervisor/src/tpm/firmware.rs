//! The firmware's TCG2 protocol ("TCG EFI Protocol Specification"): measuring, commands to the TPM, the event log.
#![allow(
    unsafe_code,
    reason = "opening a protocol that the firmware goes on using; the log is told by addresses"
)]

use bulkhead_core::tpm::Transport;
use bulkhead_core::tpm::event_log::{self, LogError};
use core::fmt;
use core::slice;
use core::time::Duration;
use uefi::boot::{self, MemoryType, OpenProtocolAttributes, OpenProtocolParams, ScopedProtocol};
use uefi::mem::memory_map::MemoryMap;
use uefi::proto::tcg::v2::{HashLogExtendEventFlags, PcrEventInputs, Tcg};
use uefi::proto::tcg::{EventType, PcrIndex};
use uefi::proto::{ProtocolPointer, unsafe_protocol};
use uefi::{Identify, Status};
use uefi_raw::protocol::tcg::v2::{Tcg2EventLogFormat, Tcg2Protocol};

/// A log longer than this is not looked at to its end.
const MOST_LOG_BYTES: u64 = 1 << 20;
/// Between two tries to give a command to a busy TPM.
const PAUSE: Duration = Duration::from_millis(10);
/// Header and data of an event, at most: the longest path of a payload is shorter.
const EVENT_BYTES: usize = 512;

/// The TPM, as the firmware lets one use it.
pub struct Firmware {
    tcg: ScopedProtocol<Tcg>,
    raw: ScopedProtocol<RawTcg>,
}

/// The same protocol, for the one call whose result the library does not show as bytes.
#[repr(transparent)]
#[unsafe_protocol(Tcg2Protocol::GUID)]
struct RawTcg(Tcg2Protocol);

/// Why there is no log.
pub enum NoLog {
    /// The firmware does not give it.
    Firmware(Status),
    /// It lies where no memory is, or its end cannot be found.
    Damaged(LogError),
    /// The firmware had no room for all of it.
    Truncated,
}

impl fmt::Display for NoLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Firmware(status) => {
                write!(f, "the firmware gives no event log of the TPM: {status}")
            }
            Self::Damaged(error) => error.fmt(f),
            Self::Truncated => f.write_str("the firmware's event log of the TPM is incomplete"),
        }
    }
}

impl Firmware {
    /// The TPM, if the firmware drives one.
    pub fn find() -> Option<Self> {
        let handle = boot::get_handle_for_protocol::<Tcg>().ok()?;
        let mut tcg = open::<Tcg>(handle)?;
        let there = tcg
            .get_capability()
            .is_ok_and(|capability| capability.tpm_present());
        there.then_some(())?;
        let raw = open::<RawTcg>(handle)?;
        Some(Self { tcg, raw })
    }

    /// Extends `pcr` by the digest of `bytes` and logs `text` with it.
    ///
    /// # Errors
    /// The firmware's status.
    pub fn measure(
        &mut self,
        pcr: u8,
        kind: EventType,
        bytes: &[u8],
        text: &[u8],
    ) -> Result<(), Status> {
        let mut buffer = [0; EVENT_BYTES];
        let index = PcrIndex(pcr.into());
        let event = PcrEventInputs::new_in_buffer(&mut buffer, index, kind, text)
            .map_err(|error| error.status())?;
        let flags = HashLogExtendEventFlags::empty();
        match self.tcg.hash_log_extend_event(flags, bytes, event) {
            // The PCR was extended, and the log has no more room.
            Err(error) if error.status() != Status::VOLUME_FULL => Err(error.status()),
            _ => Ok(()),
        }
    }

    /// The crypto-agile event log. The firmware may add to it later, and leaves these bytes as they are.
    ///
    /// # Errors
    /// [`NoLog`].
    pub fn event_log(&mut self) -> Result<&[u8], NoLog> {
        let (mut start, mut last) = (0, 0);
        let mut truncated = false.into();
        let get_event_log = self.raw.0.get_event_log;
        // SAFETY: the function is the protocol's own, called with its own pointer; the results are ours.
        let status = unsafe {
            get_event_log(
                &mut self.raw.0,
                Tcg2EventLogFormat::TCG_2,
                &mut start,
                &mut last,
                &mut truncated,
            )
        };
        if !status.is_success() {
            return Err(NoLog::Firmware(status));
        }
        // Some succeed where they have none. Memory may well be there, and is nobody's log.
        if start == 0 {
            return Err(NoLog::Firmware(Status::NOT_FOUND));
        }
        if bool::from(truncated) {
            return Err(NoLog::Truncated);
        }
        let room = memory_behind(start).unwrap_or(0).min(MOST_LOG_BYTES);
        if room == 0 {
            return Err(NoLog::Damaged(LogError { at: 0 }));
        }
        // SAFETY: the firmware's own map says that this is memory, which it keeps mapped where addresses are equal; it writes
        // nothing into it while this borrow keeps it from being called.
        let bytes = unsafe { slice::from_raw_parts(start as *const u8, room as usize) };
        let last = last.saturating_sub(start) as usize;
        let length = event_log::length(bytes, last).map_err(NoLog::Damaged)?;
        Ok(bytes.get(..length).unwrap_or_default())
    }
}

impl Transport for Firmware {
    fn submit(&mut self, command: &[u8], answer: &mut [u8]) -> Result<(), usize> {
        self.tcg
            .submit_command(command, answer)
            .map_err(|error| error.status().0)
    }

    fn pause(&mut self) {
        boot::stall(PAUSE);
    }
}

/// Bytes of memory from `address` on, by the firmware's map.
fn memory_behind(address: u64) -> Option<u64> {
    let map = boot::memory_map(MemoryType::LOADER_DATA).ok()?;
    map.entries()
        .filter(|entry| {
            !matches!(
                entry.ty,
                MemoryType::UNUSABLE | MemoryType::MMIO | MemoryType::MMIO_PORT_SPACE
            )
        })
        .find_map(|entry| {
            let bytes = entry.page_count.checked_mul(4096)?;
            let into = address.checked_sub(entry.phys_start)?;
            bytes.checked_sub(into).filter(|left| *left > 0)
        })
}

/// Opens a protocol of `handle` without taking it from those who use it.
pub(super) fn open<P: ProtocolPointer + ?Sized + Identify>(
    handle: uefi::Handle,
) -> Option<ScopedProtocol<P>> {
    let params = OpenProtocolParams {
        handle,
        agent: boot::image_handle(),
        controller: None,
    };
    // SAFETY: the firmware's TPM and its random number generator are not devices that are taken away; nothing else runs before
    // boot services end.
    unsafe { boot::open_protocol::<P>(params, OpenProtocolAttributes::GetProtocol) }.ok()
}
