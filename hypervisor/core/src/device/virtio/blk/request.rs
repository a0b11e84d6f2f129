//! A block request as its chain describes it (Virtio 1.2, "Block Device", "Device Operation").

use super::super::{Chain, QueueError};
use super::DiskError;
use crate::bus::GuestRam;

/// Type, reserved, sector.
pub(super) const HEADER_BYTES: u32 = 16;

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Read,
    Write,
    Flush,
    GetId,
    /// One of those not offered, or none at all.
    Unknown(u32),
}

impl From<u32> for Kind {
    fn from(raw: u32) -> Self {
        match raw {
            0 => Self::Read,
            1 => Self::Write,
            4 => Self::Flush,
            8 => Self::GetId,
            _ => Self::Unknown(raw),
        }
    }
}

/// How a request ends: its last byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

impl From<Result<(), DiskError>> for Status {
    fn from(result: Result<(), DiskError>) -> Self {
        match result {
            Ok(()) => Self::Ok,
            Err(_) => Self::IoError,
        }
    }
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) kind: Kind,
    /// Where its data begin on the disk.
    pub(super) sector: u64,
    /// How much data the chain has in the direction of the request.
    pub(super) bytes: u32,
}

impl Request {
    /// Whether it writes to every byte before the status.
    pub(super) const fn fills_buffers(&self) -> bool {
        matches!(self.kind, Kind::Read | Kind::GetId)
    }

    /// The request of a chain with room for a status; `None` where it has no whole header, or data in a direction that
    /// the request has none in.
    pub(super) fn read(
        chain: &Chain,
        ram: &mut (impl GuestRam + ?Sized),
    ) -> Result<Option<Self>, QueueError> {
        let to_disk = chain.readable_len().checked_sub(HEADER_BYTES);
        let from_disk = chain.writable_len().checked_sub(1);
        let (Some(to_disk), Some(from_disk)) = (to_disk, from_disk) else {
            return Ok(None);
        };
        let mut header = [0; HEADER_BYTES as usize];
        chain.read(ram, 0, &mut header)?;
        let header = u128::from_le_bytes(header);
        let kind = Kind::from(header as u32);
        let bytes = match kind {
            Kind::Read | Kind::GetId if to_disk == 0 => from_disk,
            Kind::Write if from_disk == 0 => to_disk,
            Kind::Flush | Kind::Unknown(_) => 0,
            Kind::Read | Kind::Write | Kind::GetId => return Ok(None),
        };
        Ok(Some(Self {
            kind,
            sector: (header >> 64) as u64,
            bytes,
        }))
    }
}
