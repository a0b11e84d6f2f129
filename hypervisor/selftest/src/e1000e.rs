//! Intel 82574L: frames that the controller fetches from memory, loops back in its MAC, and puts into memory again.
//!
//! [`exchange`] resets the controller, sends frames to itself through one transmit and one receive ring of legacy
//! descriptors, compares every byte that comes back, and resets the controller again. No network and no link partner is
//! needed. Manual: "Intel 82574 GbE Controller Family Datasheet".

mod error;

use bitflags::bitflags;

use crate::pattern::{Arrival, Crc32, Pattern, clear};
use crate::{Access, Region, wait_until};

pub use error::{Error, Step};

/// Its PCI vendor and device identifier.
pub const VENDOR_DEVICE: (u16, u16) = (0x8086, 0x10d3);

/// Descriptors in each ring: the fewest that a ring's length, a multiple of 128 bytes, allows.
const SLOTS: u32 = 8;
const DESCRIPTOR_BYTES: u64 = 16;
/// What the controller takes for a buffer's size when its receive control says nothing else.
const BUFFER_BYTES: u64 = 2048;

const TRANSMIT_RING: Region = Region {
    start: 0,
    bytes: SLOTS as u64 * DESCRIPTOR_BYTES,
};
const RECEIVE_RING: Region = TRANSMIT_RING.then(SLOTS as u64 * DESCRIPTOR_BYTES);
const TRANSMIT_BUFFERS: Region = Region {
    start: 4096,
    bytes: SLOTS as u64 * BUFFER_BYTES,
};
const RECEIVE_BUFFERS: Region = TRANSMIT_BUFFERS.then(SLOTS as u64 * BUFFER_BYTES);

/// Bytes of [`crate::DmaMemory`] that [`exchange`] uses, from a base aligned to a page.
pub const MEMORY_BYTES: u64 = RECEIVE_BUFFERS.end();

const _: () = assert!(RECEIVE_RING.end() <= TRANSMIT_BUFFERS.start);
const _: () = assert!(MEMORY_BYTES == 9 * 4096);
const _: () = assert!(LONGEST as u64 <= BUFFER_BYTES);

/// The shortest and the longest frame of Ethernet, without the checksum that the controller adds and strips.
const SHORTEST: u32 = 60;
const LONGEST: u32 = 1514;

/// Destination and source, two addresses of local significance, and the EtherType for local experiments: nobody's
/// protocol, should a frame get out.
const HEADER: [u8; 14] = [0x02, 0, 0, 0, 0, 0x02, 0x02, 0, 0, 0, 0, 0x01, 0x88, 0xb5];
const HEADER_BYTES: u32 = HEADER.len() as u32;

/// Registers ("Register Summary Table").
mod register {
    pub(super) const DEVICE_CONTROL: u32 = 0x0000;
    pub(super) const DEVICE_STATUS: u32 = 0x0008;
    pub(super) const INTERRUPT_CAUSE: u32 = 0x00c0;
    pub(super) const INTERRUPT_MASK_CLEAR: u32 = 0x00d8;
    pub(super) const RECEIVE_CONTROL: u32 = 0x0100;
    pub(super) const TRANSMIT_CONTROL: u32 = 0x0400;
    pub(super) const RECEIVE_RING: u32 = 0x2800;
    pub(super) const TRANSMIT_RING: u32 = 0x3800;
    pub(super) const RECEIVE_CHECKSUM: u32 = 0x5000;
    pub(super) const RECEIVE_FILTER: u32 = 0x5008;
    pub(super) const MULTIPLE_QUEUES: u32 = 0x5818;

    /// From a ring's first register: its address in two halves, bytes, head, tail.
    pub(super) mod ring {
        pub(in super::super) const BASE_LOW: u32 = 0x00;
        pub(in super::super) const BASE_HIGH: u32 = 0x04;
        pub(in super::super) const LENGTH: u32 = 0x08;
        pub(in super::super) const HEAD: u32 = 0x10;
        pub(in super::super) const TAIL: u32 = 0x18;
    }
}

bitflags! {
    /// "Device Control Register - CTRL".
    struct DeviceControl: u32 {
        const FULL_DUPLEX = 1 << 0;
        const SET_LINK_UP = 1 << 6;
        const SPEED_1000 = 2 << 8;
        const FORCE_SPEED = 1 << 11;
        const FORCE_DUPLEX = 1 << 12;
        const RESET = 1 << 26;
    }

    /// "Device Status Register - STATUS".
    struct DeviceStatus: u32 {
        const LINK_UP = 1 << 1;
    }

    /// "Receive Control Register - RCTL".
    struct ReceiveControl: u32 {
        const ENABLE = 1 << 1;
        const ALL_UNICAST = 1 << 3;
        const MAC_LOOPBACK = 1 << 6;
        const STRIP_CHECKSUM = 1 << 26;
    }

    /// "Transmit Control Register - TCTL".
    struct TransmitControl: u32 {
        const ENABLE = 1 << 1;
        const PAD_SHORT = 1 << 3;
        /// The collision threshold and distance of full duplex.
        const FULL_DUPLEX = 0x0f << 4 | 0x3f << 12;
    }

    /// The command in a "Legacy Transmit Descriptor Format".
    struct TransmitCommand: u8 {
        const END_OF_PACKET = 1 << 0;
        const INSERT_CHECKSUM = 1 << 1;
        const REPORT_STATUS = 1 << 3;
    }

    /// The status in a legacy descriptor, of either kind: the second means something in received ones only.
    struct DescriptorStatus: u8 {
        const DONE = 1 << 0;
        const END_OF_PACKET = 1 << 1;
    }
}

/// Where the status lies in either descriptor.
const STATUS_AT: u64 = 12;

/// Longer than reset, link or frame can take.
const LIMIT_US: u64 = 2_000_000;

/// What came back as it was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exchanged {
    /// Frames.
    pub frames: u32,
    /// Their bytes.
    pub bytes: u64,
    /// CRC-32 of all of them as received; each byte was compared, so it is that of what was sent, too.
    pub checksum: u32,
}

/// Sends `frames` frames, which `seed` determines, and receives each. The controller is left reset, whatever happens.
///
/// `base` is the address of the first of [`MEMORY_BYTES`] bytes, aligned to a page.
pub fn exchange(
    access: &mut Access<'_>,
    base: u64,
    frames: u32,
    seed: u64,
) -> Result<Exchanged, Error> {
    let mut port = Port { access, base };
    let outcome = match port.prepare() {
        Ok(()) => port.send_and_receive(frames, seed),
        Err(error) => Err(error),
    };
    let quiet = port.reset();
    let exchanged = outcome?;
    quiet?;
    Ok(exchanged)
}

struct Port<'a, 'b> {
    access: &'a mut Access<'b>,
    base: u64,
}

impl Port<'_, '_> {
    /// "Initialization Sequence", and "Loopback" for what differs.
    fn prepare(&mut self) -> Result<(), Error> {
        self.reset()?;
        let control = DeviceControl::FULL_DUPLEX
            | DeviceControl::SET_LINK_UP
            | DeviceControl::SPEED_1000
            | DeviceControl::FORCE_SPEED
            | DeviceControl::FORCE_DUPLEX;
        self.write(register::DEVICE_CONTROL, control.bits());
        let up = DeviceStatus::LINK_UP.bits();
        self.wait_register(Step::Link, register::DEVICE_STATUS, up, up)?;
        // Legacy descriptors, one queue, nothing computed about the contents.
        self.write(register::RECEIVE_FILTER, 0);
        self.write(register::RECEIVE_CHECKSUM, 0);
        self.write(register::MULTIPLE_QUEUES, 0);
        for slot in 0..SLOTS {
            self.offer(slot);
        }
        self.point(register::TRANSMIT_RING, TRANSMIT_RING);
        self.point(register::RECEIVE_RING, RECEIVE_RING);
        let receive = ReceiveControl::ENABLE
            | ReceiveControl::ALL_UNICAST
            | ReceiveControl::MAC_LOOPBACK
            | ReceiveControl::STRIP_CHECKSUM;
        self.write(register::RECEIVE_CONTROL, receive.bits());
        self.write(register::RECEIVE_RING + register::ring::TAIL, SLOTS - 1);
        let transmit =
            TransmitControl::ENABLE | TransmitControl::PAD_SHORT | TransmitControl::FULL_DUPLEX;
        self.write(register::TRANSMIT_CONTROL, transmit.bits());
        Ok(())
    }

    /// Batches as long as the rings allow: a tail that reached the head would say that a ring is empty.
    fn send_and_receive(&mut self, frames: u32, seed: u64) -> Result<Exchanged, Error> {
        let mut sum = Crc32::new();
        let mut bytes = 0;
        let mut batch = 0..0;
        while batch.end < frames {
            batch = batch.end..frames.min(batch.end.saturating_add(SLOTS - 1));
            for frame in batch.clone() {
                self.send(frame, seed);
            }
            let tail = batch.end % SLOTS;
            self.write(register::TRANSMIT_RING + register::ring::TAIL, tail);
            for frame in batch.clone() {
                bytes += u64::from(self.receive(frame, seed, &mut sum)?);
            }
        }
        Ok(Exchanged {
            frames,
            bytes,
            checksum: sum.value(),
        })
    }

    fn send(&mut self, frame: u32, seed: u64) {
        let slot = frame % SLOTS;
        let (length, body) = contents(frame, seed);
        let buffer = self.base + TRANSMIT_BUFFERS.start + u64::from(slot) * BUFFER_BYTES;
        self.access.memory.write(buffer, &HEADER);
        let after = buffer + u64::from(HEADER_BYTES);
        body.store(self.access.memory, after, length - HEADER_BYTES);
        let command = TransmitCommand::END_OF_PACKET
            | TransmitCommand::INSERT_CHECKSUM
            | TransmitCommand::REPORT_STATUS;
        let lower = u64::from(length) | u64::from(command.bits()) << 24;
        self.describe(TRANSMIT_RING, slot, buffer, lower);
    }

    /// Waits for a frame to have been sent and to have come back, and looks at it; its length.
    fn receive(&mut self, frame: u32, seed: u64, sum: &mut Crc32) -> Result<u32, Error> {
        let slot = frame % SLOTS;
        self.wait_descriptor(TRANSMIT_RING, slot, Step::Transmit(frame))?;
        self.wait_descriptor(RECEIVE_RING, slot, Step::Receive(frame))?;
        let mut written = [0; 8];
        let at = self.descriptor(RECEIVE_RING, slot) + 8;
        self.access.memory.read(at, &mut written);
        let [low, high, _, _, status, errors, _, _] = written;
        let (length, body) = contents(frame, seed);
        let received = u16::from_le_bytes([low, high]);
        let whole =
            DescriptorStatus::from_bits_retain(status).contains(DescriptorStatus::END_OF_PACKET);
        if u32::from(received) != length || !whole || errors != 0 {
            return Err(Error::Shape {
                frame,
                length,
                received,
                errors,
            });
        }
        let start = self.receive_buffer(slot);
        let mut arrival = Arrival {
            memory: self.access.memory,
            start,
            sum,
        };
        arrival
            .expect(0, &HEADER)
            .and_then(|()| arrival.expect_pattern(HEADER_BYTES, body, length - HEADER_BYTES))
            .map_err(|difference| Error::Content { frame, difference })?;
        self.offer(slot);
        self.write(register::RECEIVE_RING + register::ring::TAIL, slot);
        Ok(length)
    }

    /// Makes a slot ready for a frame to be received.
    fn offer(&mut self, slot: u32) {
        let buffer = self.receive_buffer(slot);
        clear(self.access.memory, buffer, LONGEST);
        self.describe(RECEIVE_RING, slot, buffer, 0);
    }

    fn receive_buffer(&self, slot: u32) -> u64 {
        self.base + RECEIVE_BUFFERS.start + u64::from(slot) * BUFFER_BYTES
    }

    fn descriptor(&self, ring: Region, slot: u32) -> u64 {
        self.base + ring.start + u64::from(slot) * DESCRIPTOR_BYTES
    }

    fn describe(&mut self, ring: Region, slot: u32, buffer: u64, rest: u64) {
        let at = self.descriptor(ring, slot);
        self.access.memory.write(at, &buffer.to_le_bytes());
        self.access.memory.write(at + 8, &rest.to_le_bytes());
    }

    fn wait_descriptor(&mut self, ring: Region, slot: u32, step: Step) -> Result<(), Error> {
        let at = self.descriptor(ring, slot) + STATUS_AT;
        let Access { memory, clock, .. } = &mut *self.access;
        let mut done = || {
            let mut status = [0];
            memory.read(at, &mut status);
            DescriptorStatus::from_bits_retain(u8::from_le_bytes(status))
                .contains(DescriptorStatus::DONE)
        };
        step.unless(wait_until(*clock, LIMIT_US, &mut done))
    }

    /// Gives the controller an empty ring; not every emulation empties it by a reset.
    fn point(&mut self, ring: u32, region: Region) {
        let address = self.base + region.start;
        self.write(ring + register::ring::BASE_LOW, address as u32);
        self.write(ring + register::ring::BASE_HIGH, (address >> 32) as u32);
        self.write(ring + register::ring::LENGTH, region.bytes as u32);
        self.write(ring + register::ring::HEAD, 0);
        self.write(ring + register::ring::TAIL, 0);
    }

    /// Stops both directions, masks every interrupt, and resets: "Software Reset". Stopping goes first because not every
    /// emulation stops by a reset.
    fn reset(&mut self) -> Result<(), Error> {
        self.write(register::INTERRUPT_MASK_CLEAR, !0);
        self.write(register::RECEIVE_CONTROL, 0);
        self.write(register::TRANSMIT_CONTROL, 0);
        let reset = DeviceControl::RESET.bits();
        self.write(register::DEVICE_CONTROL, reset);
        let outcome = self.wait_register(Step::Reset, register::DEVICE_CONTROL, reset, 0);
        self.write(register::INTERRUPT_MASK_CLEAR, !0);
        self.access.registers.read32(register::INTERRUPT_CAUSE);
        outcome
    }

    fn write(&mut self, register: u32, value: u32) {
        self.access.registers.write32(register, value);
    }

    fn wait_register(
        &mut self,
        step: Step,
        register: u32,
        mask: u32,
        value: u32,
    ) -> Result<(), Error> {
        let Access {
            registers, clock, ..
        } = &mut *self.access;
        let mut done = || registers.read32(register) & mask == value;
        step.unless(wait_until(*clock, LIMIT_US, &mut done))
    }
}

/// What every byte of a frame is: its length, and what follows the header. The first two frames are the extremes.
fn contents(frame: u32, seed: u64) -> (u32, Pattern) {
    let mut body = Pattern::new(seed, frame.into());
    let length = match frame {
        0 => SHORTEST,
        1 => LONGEST,
        _ => SHORTEST + (body.word() % u64::from(LONGEST - SHORTEST + 1)) as u32,
    };
    (length, body)
}

#[cfg(test)]
mod tests;
