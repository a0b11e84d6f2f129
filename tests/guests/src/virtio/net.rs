//! A network card's driver: frames one at a time (Virtio 1.2, "Network Device").

use core::ops::RangeInclusive;

use super::queue::{Descriptor, Queue, WRITE, read, write};
use super::{Device, Error, Kind};

/// VIRTIO_NET_F_MAC.
const FEATURE_MAC: u64 = 1 << 5;
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// Entries of each queue, each with one buffer.
const QUEUE_SIZE: u16 = 16;
/// Bytes of a buffer: the largest frame and its header.
const BUFFER: u64 = 2048;
/// Bytes before each frame.
const HEADER: u64 = 12;
/// Bytes of the smallest frame, and of the largest, without their checksum.
pub const FRAME_BYTES: RangeInclusive<u64> = 60..=1514;

/// An Ethernet address.
pub type Mac = [u8; 6];
/// Everybody.
pub const BROADCAST: Mac = [0xff; 6];

/// A frame, as far as guests look at one: its Ethernet header, and the first eight bytes that it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Frame {
    /// Whom it is for.
    pub to: Mac,
    /// Who sent it.
    pub from: Mac,
    /// What it carries, the first byte first.
    pub ether_type: [u8; 2],
    /// The first eight bytes of that.
    pub word: [u8; 8],
}

const _: () = assert!(size_of::<Frame>() == 22);

/// A network card ready for frames.
#[derive(Debug)]
pub struct Net {
    /// Its registers.
    pub device: Device,
    /// Frames that come.
    pub receive: Queue,
    /// Frames that go.
    pub transmit: Queue,
    /// Its address.
    pub mac: Mac,
}

impl Net {
    /// Sets the `nth` network card up, with buffers for frames; it interrupts with `vector` when one came, if any.
    ///
    /// # Errors
    /// Where there is none, or it does not get ready.
    pub fn open(nth: usize, vector: Option<u8>) -> Result<Self, Error> {
        let device = Device::find(Kind::Net, nth)?;
        device.negotiate(FEATURE_MAC)?;
        let mut receive = device.queue(RECEIVE, QUEUE_SIZE, vector);
        let transmit = device.queue(TRANSMIT, QUEUE_SIZE, None);
        device.start()?;
        for index in 0..receive.size() {
            receive.describe(
                index,
                Descriptor {
                    address: receive.buffers() + u64::from(index) * BUFFER,
                    length: BUFFER as u32,
                    flags: WRITE,
                    next: 0,
                },
            );
            receive.offer(index);
        }
        receive.kick();
        let mac = core::array::from_fn(|n| device.config.at(n as u64).read_u8());
        Ok(Self {
            device,
            receive,
            transmit,
            mac,
        })
    }

    /// Sends `frame`, `length` bytes long, and waits until the device has it.
    ///
    /// # Errors
    /// Where the device does not take it.
    pub fn send(&mut self, frame: &Frame, length: u64) -> Result<(), Error> {
        let buffer = self.transmit.buffers();
        write(buffer, [0_u8; HEADER as usize]);
        write(buffer + HEADER, *frame);
        self.transmit.describe(
            0,
            Descriptor {
                address: buffer,
                length: (HEADER + length.clamp(*FRAME_BYTES.start(), *FRAME_BYTES.end())) as u32,
                flags: 0,
                next: 0,
            },
        );
        self.transmit.offer(0);
        self.transmit.kick();
        self.transmit.wait().map(|_| ()).ok_or(Error::NoAnswer)
    }

    /// Takes the next frame that came, if there is one, with its length, and gives its buffer back.
    pub fn take(&mut self) -> Option<(Frame, u64)> {
        let (head, length) = self.receive.take()?;
        let frame = read(self.receive.buffers() + u64::from(head) * BUFFER + HEADER);
        self.receive.offer(head);
        self.receive.kick();
        Some((frame, u64::from(length).saturating_sub(HEADER)))
    }
}
