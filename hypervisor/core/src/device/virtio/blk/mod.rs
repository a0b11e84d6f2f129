//! The block device (Virtio 1.2, "Block Device").
//!
//! [`Block`] checks a request whole before it moves a byte, then moves it through a buffer of 4 KiB between the chain and
//! a [`Disk`], and leaves zeroes there. A request is done when [`notify`](VirtioDevice::notify) returns. What is wrong with a request, its status
//! says; only a chain that has no room for the status is the driver's end.

mod disk;
mod request;
#[cfg(test)]
mod tests;

pub use disk::{Disk, DiskError, SECTOR_BYTES};

use alloc::boxed::Box;

use self::request::{HEADER_BYTES, Kind, Request, Status};
use super::queue::MAX_SEGMENTS;
use super::{Chain, DeviceKind, Effect, Queue, QueueError, VirtioDevice, config};
use crate::bus::{Bus, GuestRam};

const QUEUE_SIZE: u16 = 128;
/// Bytes moved in one copy, and the size of a disk's blocks: pieces never straddle two of them.
const PIECE_BYTES: usize = 4096;
/// Bytes of the name that [`Kind::GetId`] asks for.
const ID_BYTES: usize = 20;

/// The most data buffers of a request: a chain has as many segments, and two are header and status.
const MAX_BUFFERS: u32 = MAX_SEGMENTS as u32 - 2;
/// The most bytes of each.
const MAX_BUFFER_BYTES: u32 = 16 << 10;
/// The most data of a request.
pub const MAX_REQUEST_BYTES: u32 = MAX_BUFFERS * MAX_BUFFER_BYTES;

const _: () = assert!(MAX_REQUEST_BYTES < super::queue::MAX_CHAIN_BYTES);

bitflags::bitflags! {
    /// Feature bits (Virtio 1.2, "Block Device", "Feature bits").
    #[derive(Clone, Copy)]
    struct BlockFeatures: u64 {
        /// VIRTIO_BLK_F_SIZE_MAX: the configuration has the most bytes of a buffer.
        const SIZE_MAX = 1 << 1;
        /// VIRTIO_BLK_F_SEG_MAX: the configuration has the most buffers of a request.
        const SEGMENTS_MAX = 1 << 2;
        /// VIRTIO_BLK_F_RO: the disk is read-only.
        const READ_ONLY = 1 << 5;
        /// VIRTIO_BLK_F_BLK_SIZE: the configuration has the size of a block.
        const BLOCK_SIZE = 1 << 6;
        /// VIRTIO_BLK_F_FLUSH: there is a flush request.
        const FLUSH = 1 << 9;
    }
}

/// What a block device did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct BlockCounters {
    /// Reads that succeeded.
    pub reads: u64,
    /// Writes that succeeded.
    pub writes: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Requests answered with an error, or as unsupported.
    pub failed: u64,
}

/// A block device.
pub struct Block {
    disk: Box<dyn Disk>,
    id: [u8; ID_BYTES],
    piece: Box<[u8; PIECE_BYTES]>,
    counters: BlockCounters,
}

impl Block {
    /// A device for `disk`; the guest can read the first 20 bytes of `id` as its serial number.
    #[must_use]
    pub fn new(disk: Box<dyn Disk>, id: &str) -> Self {
        let mut bytes = [0; ID_BYTES];
        for (to, from) in bytes.iter_mut().zip(id.bytes()) {
            *to = from;
        }
        Self {
            disk,
            id: bytes,
            piece: Box::new([0; PIECE_BYTES]),
            counters: BlockCounters::default(),
        }
    }

    /// What was counted.
    #[must_use]
    pub const fn counters(&self) -> BlockCounters {
        self.counters
    }

    /// The VM starts anew, not only its driver.
    pub fn restart(&mut self) {
        self.disk.forget_writes();
        self.counters = BlockCounters::default();
    }

    /// Carries out the request of a chain and says how many bytes were written to it.
    fn serve(
        &mut self,
        chain: &Chain,
        ram: &mut (impl GuestRam + ?Sized),
    ) -> Result<u32, QueueError> {
        let status_at = chain
            .writable_len()
            .checked_sub(1)
            .ok_or(QueueError::TooShort)?;
        let request = Request::read(chain, ram)?;
        let status = match request {
            Some(request) => self.execute(&request, chain, ram)?,
            None => Status::IoError,
        };
        chain.write(ram, status_at, &[status as u8])?;
        let done = request.filter(|_| status == Status::Ok);
        match &done {
            Some(request) => self.count(request),
            None => self.counters.failed = self.counters.failed.saturating_add(1),
        }
        // The used length counts from the first buffer on: bytes there that were not written end it.
        let filled = status_at == 0 || done.is_some_and(|request| request.fills_buffers());
        Ok(if filled { chain.writable_len() } else { 0 })
    }

    fn execute(
        &mut self,
        request: &Request,
        chain: &Chain,
        ram: &mut (impl GuestRam + ?Sized),
    ) -> Result<Status, QueueError> {
        match request.kind {
            Kind::Read => self.transfer(request, |disk, sector, at, piece| {
                if disk.read(sector, piece).is_err() {
                    return Ok(Status::IoError);
                }
                chain.write(ram, at, piece).map(|()| Status::Ok)
            }),
            Kind::Write if self.disk.read_only() => Ok(Status::IoError),
            Kind::Write => self.transfer(request, |disk, sector, at, piece| {
                let at = at.saturating_add(HEADER_BYTES);
                chain.read(ram, at, piece)?;
                Ok(disk.write(sector, piece).into())
            }),
            Kind::Flush => Ok(self.disk.flush().into()),
            Kind::GetId if request.bytes == ID_BYTES as u32 => {
                chain.write(ram, 0, &self.id).map(|()| Status::Ok)
            }
            Kind::GetId => Ok(Status::IoError),
            Kind::Unknown(_) => Ok(Status::Unsupported),
        }
    }

    /// Moves a request's data as [`Block::move_pieces`] does, and leaves nothing of it here: the guest's memory may be sealed.
    fn transfer(
        &mut self,
        request: &Request,
        step: impl FnMut(&mut dyn Disk, u64, u32, &mut [u8]) -> Result<Status, QueueError>,
    ) -> Result<Status, QueueError> {
        let moved = self.move_pieces(request, step);
        let used = PIECE_BYTES.min(request.bytes as usize);
        if let Some(used) = self.piece.get_mut(..used) {
            used.fill(0);
        }
        moved
    }

    /// Moves a request's data piece by piece: `step` gets the disk, the piece's first sector, its place in the data, and
    /// the buffer.
    fn move_pieces(
        &mut self,
        request: &Request,
        mut step: impl FnMut(&mut dyn Disk, u64, u32, &mut [u8]) -> Result<Status, QueueError>,
    ) -> Result<Status, QueueError> {
        if !self.in_range(request) {
            return Ok(Status::IoError);
        }
        let mut sector = request.sector;
        let mut done = 0;
        while done < request.bytes {
            // Up to the disk's next block: one written whole need not be read before.
            let to_block = PIECE_BYTES - (sector % SECTORS_A_PIECE) as usize * SECTOR_BYTES;
            let count = to_block.min((request.bytes - done) as usize);
            let Some(piece) = self.piece.get_mut(..count) else {
                return Ok(Status::IoError);
            };
            let status = step(self.disk.as_mut(), sector, done, piece)?;
            if status != Status::Ok {
                return Ok(status);
            }
            sector += (count / SECTOR_BYTES) as u64;
            done += count as u32;
        }
        Ok(Status::Ok)
    }

    /// Whether a request's data are whole sectors that are all on the disk, and no more than a request may have.
    fn in_range(&self, request: &Request) -> bool {
        let sectors = u64::from(request.bytes / SECTOR_BYTES as u32);
        request.bytes.is_multiple_of(SECTOR_BYTES as u32)
            && request.bytes <= MAX_REQUEST_BYTES
            && request
                .sector
                .checked_add(sectors)
                .is_some_and(|end| end <= self.disk.sectors())
    }

    fn count(&mut self, request: &Request) {
        let counters = &mut self.counters;
        let (requests, bytes) = match request.kind {
            Kind::Read => (&mut counters.reads, &mut counters.bytes_read),
            Kind::Write => (&mut counters.writes, &mut counters.bytes_written),
            Kind::Flush => {
                counters.flushes = counters.flushes.saturating_add(1);
                return;
            }
            Kind::GetId | Kind::Unknown(_) => return,
        };
        *requests = requests.saturating_add(1);
        *bytes = bytes.saturating_add(request.bytes.into());
    }
}

const SECTORS_A_PIECE: u64 = (PIECE_BYTES / SECTOR_BYTES) as u64;

impl VirtioDevice for Block {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn features(&self) -> u64 {
        let always = BlockFeatures::SIZE_MAX
            | BlockFeatures::SEGMENTS_MAX
            | BlockFeatures::BLOCK_SIZE
            | BlockFeatures::FLUSH;
        let read_only = if self.disk.read_only() {
            BlockFeatures::READ_ONLY
        } else {
            BlockFeatures::empty()
        };
        (always | read_only).bits()
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[QUEUE_SIZE]
    }

    /// `struct virtio_blk_config` up to the size of a block.
    fn read_config(&self, offset: u32, into: &mut [u8]) {
        let fields: [u64; 3] = [
            self.disk.sectors(),
            u64::from(MAX_BUFFER_BYTES) | u64::from(MAX_BUFFERS) << 32,
            // The lower half is a geometry, which is not offered.
            (SECTOR_BYTES as u64) << 32,
        ];
        let bytes = fields.map(u64::to_le_bytes);
        config::read(bytes.as_flattened(), offset, into);
    }

    fn reset(&mut self) {}

    fn notify(
        &mut self,
        _: usize,
        queues: &mut [Queue],
        bus: &mut dyn Bus,
    ) -> Result<Effect, QueueError> {
        if let Some(queue) = queues.first_mut() {
            queue.serve_all(bus, |chain, bus| self.serve(chain, bus))?;
        }
        Ok(Effect::Nothing)
    }
}
