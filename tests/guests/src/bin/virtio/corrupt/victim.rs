//! The device that wrong things are done to.

use test_guests::params::Params;
use test_guests::pci::{BAR0, COMMAND, Place};
use test_guests::timer;
use test_guests::virtio::block::{Block, HEADER, TYPE_IN};
use test_guests::virtio::queue::{Descriptor, NEXT, Queue, WRITE};
use test_guests::virtio::{Device, Error, common};

/// Time for what a request may still do after the notification returned, in ticks.
const SETTLE: u64 = 100_000;
/// Sectors of an ordinary request, and their bytes.
const SECTORS: u32 = 1;
pub(super) const DATA: u32 = 512;

/// What configuration space held before: the command register and the base addresses.
type Setup = [u32; 7];

/// A block device that is set up, and what is needed to set it up again.
pub(super) struct Victim {
    pub(super) block: Block,
    /// The first address behind the VM's memory.
    pub(super) ram_end: u64,
    before: Setup,
}

impl Victim {
    pub(super) fn open(params: &Params) -> Result<Self, Error> {
        let block = Block::open(0, 0, None)?;
        block.prepare(TYPE_IN, 0, SECTORS);
        let function = block.device.function;
        Ok(Self {
            before: core::array::from_fn(|n| function.read(setup_register(n))),
            ram_end: params.ram_end(),
            block,
        })
    }

    pub(super) fn device(&self) -> Device {
        self.block.device
    }

    pub(super) fn queue(&mut self) -> &mut Queue {
        &mut self.block.queue
    }

    /// A register of the common configuration.
    pub(super) fn common(&self, register: u64) -> Place {
        self.block.device.common.at(register)
    }

    pub(super) fn status(&self) -> u8 {
        self.block.device.status()
    }

    /// Sets the device up again, with further `features`.
    pub(super) fn reopen(&mut self, features: u64) {
        if let Ok(block) = Block::open(0, features, None) {
            block.prepare(TYPE_IN, 0, SECTORS);
            self.block = block;
        }
    }

    /// Resets the device and goes through its set-up with a queue as given, which it may refuse at any point; then offers
    /// an ordinary request.
    pub(super) fn set_up(&mut self, size: u16, [descriptors, available, used]: [u64; 3]) {
        // A refusal is the device's good right here and in what follows.
        let _ = self.block.device.negotiate(0);
        self.common(common::QUEUE_SELECT).write_u16(0);
        self.common(common::QUEUE_SIZE).write_u16(size);
        self.common(common::QUEUE_DESC).write_u64(descriptors);
        self.common(common::QUEUE_DRIVER).write_u64(available);
        self.common(common::QUEUE_DEVICE).write_u64(used);
        self.common(common::QUEUE_ENABLE).write_u16(1);
        let _ = self.block.device.start();
        self.offer(0);
    }

    /// Where the queue's three parts are when all is well.
    pub(super) fn parts(&self) -> [u64; 3] {
        let queue = &self.block.queue;
        [queue.descriptors(), queue.available(), queue.used()]
    }

    /// An ordinary read's three descriptors: header, data, status.
    pub(super) fn request(&self) -> [Descriptor; 3] {
        let block = &self.block;
        [
            Descriptor {
                address: block.header(),
                length: HEADER,
                flags: NEXT,
                next: 1,
            },
            Descriptor {
                address: block.data(),
                length: DATA,
                flags: NEXT | WRITE,
                next: 2,
            },
            Descriptor {
                address: block.status(),
                length: 1,
                flags: WRITE,
                next: 0,
            },
        ]
    }

    /// Offers these descriptors, the first of them first.
    pub(super) fn submit(&mut self, descriptors: &[Descriptor]) {
        for (index, descriptor) in (0..).zip(descriptors) {
            self.block.queue.describe(index, *descriptor);
        }
        self.offer(0);
    }

    /// Offers a read whose data go to `length` bytes at `address`.
    pub(super) fn read_to(&mut self, address: u64, length: u32) {
        let mut request = self.request();
        request[1].address = address;
        request[1].length = length;
        self.submit(&request);
    }

    /// Offers the chain that begins at `head`.
    pub(super) fn offer(&mut self, head: u16) {
        self.block.queue.offer(head);
        self.kick();
    }

    /// Notifies the device, and gives it some time.
    pub(super) fn kick(&mut self) {
        self.block.queue.kick();
        let queue = &mut self.block.queue;
        let mut taken = queue.take();
        timer::spin_until(SETTLE, || taken.is_some());
        while taken.is_some() {
            taken = queue.take();
        }
    }

    /// Puts the function back where it was, sets the device up, and reads a sector.
    pub(super) fn works_again(self) -> Result<(), Error> {
        let function = self.block.device.function;
        for (n, value) in self.before.into_iter().enumerate().rev() {
            function.write(setup_register(n), value);
        }
        Block::open(0, 0, None)?.read(0, SECTORS)
    }
}

/// The command register is the first, and so the last to be put back.
const fn setup_register(n: usize) -> u16 {
    match n.checked_sub(1) {
        None => COMMAND,
        Some(bar) => BAR0 + bar as u16 * 4,
    }
}
