//! A block device's driver: one request at a time (Virtio 1.2, "Block Device").

use super::queue::{Descriptor, NEXT, Queue, WRITE, read, write};
use super::{Device, Error, Kind};

/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// VIRTIO_BLK_F_RO.
pub const FEATURE_READ_ONLY: u64 = 1 << 5;
/// VIRTIO_BLK_F_FLUSH.
pub const FEATURE_FLUSH: u64 = 1 << 9;
/// Type of a request: read sectors.
pub const TYPE_IN: u32 = 0;
/// Type of a request: write sectors.
pub const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
/// Bytes of a request's header: type, reserved, sector.
pub const HEADER: u32 = 16;
const STATUS_NONE: u8 = 0xff;
const QUEUE_SIZE: u16 = 64;
/// Places among the queue's buffers.
const STATUS_AT: u64 = 16;
const DATA_AT: u64 = 0x1000;

/// A block device ready for requests.
#[derive(Debug)]
pub struct Block {
    /// Its registers.
    pub device: Device,
    /// Its only queue.
    pub queue: Queue,
    /// The features in use.
    pub features: u64,
}

impl Block {
    /// Sets the `nth` block device up, with further `features` where offered; it interrupts with `vector`, if any.
    ///
    /// # Errors
    /// Where there is none, or it does not get ready.
    pub fn open(nth: usize, features: u64, vector: Option<u8>) -> Result<Self, Error> {
        let device = Device::find(Kind::Block, nth)?;
        let features = device.negotiate(features | FEATURE_READ_ONLY | FEATURE_FLUSH)?;
        let queue = device.queue(0, QUEUE_SIZE, vector);
        device.start()?;
        Ok(Self {
            device,
            queue,
            features,
        })
    }

    /// How many sectors it has.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        let low = self.device.config.read_u32();
        let high = self.device.config.at(4).read_u32();
        u64::from(low) | (u64::from(high) << 32)
    }

    /// Where requests find and leave their data.
    #[must_use]
    pub fn data(&self) -> u64 {
        self.queue.buffers() + DATA_AT
    }

    /// Where a request's header is.
    #[must_use]
    pub fn header(&self) -> u64 {
        self.queue.buffers()
    }

    /// Where the device puts a request's status.
    #[must_use]
    pub fn status(&self) -> u64 {
        self.queue.buffers() + STATUS_AT
    }

    /// Reads `count` sectors to [`data`](Self::data).
    ///
    /// # Errors
    /// Where the device does not answer, or refuses.
    pub fn read(&mut self, sector: u64, count: u32) -> Result<(), Error> {
        self.request(TYPE_IN, sector, count)
    }

    /// Writes `count` sectors from [`data`](Self::data).
    ///
    /// # Errors
    /// Where the device does not answer, or refuses.
    pub fn write(&mut self, sector: u64, count: u32) -> Result<(), Error> {
        self.request(TYPE_OUT, sector, count)
    }

    /// Makes what was written last.
    ///
    /// # Errors
    /// Where the device does not answer, or refuses.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.request(TYPE_FLUSH, 0, 0)
    }

    /// Carries out one request of `kind`.
    ///
    /// # Errors
    /// Where the device does not answer, or refuses.
    pub fn request(&mut self, kind: u32, sector: u64, count: u32) -> Result<(), Error> {
        self.prepare(kind, sector, count);
        self.queue.offer(0);
        self.queue.kick();
        self.queue.wait().ok_or(Error::NoAnswer)?;
        match read::<u8>(self.status()) {
            0 => Ok(()),
            status => Err(Error::Refused(status)),
        }
    }

    /// Writes header and descriptors of a request, from descriptor 0 on, without offering it.
    pub fn prepare(&self, kind: u32, sector: u64, count: u32) {
        write(self.header(), [kind, 0]);
        write(self.header() + 8, sector);
        write(self.status(), STATUS_NONE);
        let data_flags = if kind == TYPE_IN { NEXT | WRITE } else { NEXT };
        let chain = [
            (self.header(), HEADER, NEXT),
            (self.data(), count * SECTOR as u32, data_flags),
            (self.status(), 1, WRITE),
        ];
        let mut index = 0;
        for (address, length, flags) in chain {
            if length != 0 {
                let next = if flags & NEXT == 0 { 0 } else { index + 1 };
                self.queue.describe(
                    index,
                    Descriptor {
                        address,
                        length,
                        flags,
                        next,
                    },
                );
                index += 1;
            }
        }
    }
}
