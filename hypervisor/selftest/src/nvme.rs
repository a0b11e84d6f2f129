//! NVM Express: blocks that the controller fetches from memory, stores, and brings to other memory.
//!
//! [`exchange`] starts the controller with its admin queues and one pair of I/O queues, writes blocks of namespace 1 from
//! block 0 on, reads them back, compares every byte, and disables the controller. Neighbour: `queue` has the rings.
//! Manuals: "NVM Express Base Specification" and "NVM Express NVM Command Set Specification".

mod error;
mod queue;

use core::ops::Range;

use crate::pattern::{Arrival, Crc32, Pattern, clear};
use crate::{Access, DmaMemory, Region, wait_until};
use queue::{Command, DEPTH, Queue};

pub use error::{Error, Step};

/// Its PCI class, subclass and programming interface.
pub const CLASS: [u8; 3] = [0x01, 0x08, 0x02];

const PAGE: u64 = 4096;
/// Bytes a command moves: two pages, which every controller takes, so that the second PRP is used, too.
const TRANSFER: u64 = 2 * PAGE;
/// Commands under way at a time.
const BATCH: u32 = 2;
const _: () = assert!(BATCH < DEPTH as u32);

const ADMIN_SUBMISSIONS: Region = Region {
    start: 0,
    bytes: PAGE,
};
const ADMIN_COMPLETIONS: Region = ADMIN_SUBMISSIONS.then(PAGE);
const SUBMISSIONS: Region = ADMIN_COMPLETIONS.then(PAGE);
const COMPLETIONS: Region = SUBMISSIONS.then(PAGE);
const IDENTITY: Region = COMPLETIONS.then(PAGE);
const WRITTEN: Region = IDENTITY.then(BATCH as u64 * TRANSFER);
const READ: Region = WRITTEN.then(BATCH as u64 * TRANSFER);

/// Bytes of [`crate::DmaMemory`] that [`exchange`] uses, from a base aligned to a page.
pub const MEMORY_BYTES: u64 = READ.end();

const _: () = assert!(MEMORY_BYTES == 13 * PAGE);

/// Registers ("Controller Properties").
mod register {
    pub(super) const CAPABILITIES: u32 = 0x00;
    pub(super) const INTERRUPT_MASK_SET: u32 = 0x0c;
    pub(super) const CONFIGURATION: u32 = 0x14;
    pub(super) const STATUS: u32 = 0x1c;
    pub(super) const ADMIN_QUEUE_SIZES: u32 = 0x24;
    pub(super) const ADMIN_SUBMISSIONS: u32 = 0x28;
    pub(super) const ADMIN_COMPLETIONS: u32 = 0x30;
    pub(super) const DOORBELLS: u32 = 0x1000;
}

/// The fields used of "Controller Capabilities".
#[derive(Clone, Copy)]
struct Capabilities(u64);

impl Capabilities {
    const NVM_COMMAND_SET: u64 = 1 << 37;

    /// Entries a queue may have, less one.
    fn deepest(self) -> u16 {
        self.0 as u16
    }

    /// How long the controller may take to become ready, or to cease to be.
    fn limit_us(self) -> u64 {
        (self.0 >> 24 & 0xff).max(1) * 500_000
    }

    /// Bytes from a doorbell to the next.
    fn stride(self) -> u32 {
        4 << (self.0 >> 32 & 0xf)
    }

    /// Whether it takes the pages, the queues and the commands used here. A function that answers nothing does not.
    fn suffice(self) -> bool {
        let smallest_page = self.0 >> 48 & 0xf;
        smallest_page == 0 && self.deepest() >= DEPTH - 1 && self.0 & Self::NVM_COMMAND_SET != 0
    }
}

/// "Controller Configuration": enabled, pages of 4 KiB, entries of 64 and 16 bytes.
const ENABLED: u32 = 1 | 6 << 16 | 4 << 20;
/// "Controller Status": ready.
const READY: u32 = 1 << 0;
/// "Controller Status": the controller has given up.
const FATAL: u32 = 1 << 1;

/// "Admin Command Set".
mod admin {
    pub(super) const CREATE_SUBMISSIONS: u8 = 0x01;
    pub(super) const CREATE_COMPLETIONS: u8 = 0x05;
    pub(super) const IDENTIFY: u8 = 0x06;
}

/// "NVM Command Set".
mod io {
    pub(super) const WRITE: u8 = 0x01;
    pub(super) const READ: u8 = 0x02;
}

/// What "Identify" is about.
mod identify {
    pub(super) const NAMESPACE: u32 = 0;
    pub(super) const CONTROLLER: u32 = 1;
}

/// The one namespace used.
const NAMESPACE: u32 = 1;
/// The pair of queues made for I/O.
const IO_QUEUE: u16 = 1;
/// When creating a queue: its entries follow each other in memory. Its interrupts are off.
const CONTIGUOUS: u32 = 1;

/// What came back as it was stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Blocks.
    pub blocks: u32,
    /// Their bytes.
    pub bytes: u64,
    /// CRC-32 of all of them as read; each byte was compared, so it is that of what was written, too.
    pub checksum: u32,
}

/// Overwrites the first `blocks` blocks of namespace 1 with what `seed` determines, and reads them back. The controller
/// is left disabled, whatever happens.
///
/// `base` is the address of the first of [`MEMORY_BYTES`] bytes, aligned to a page.
pub fn exchange(
    access: &mut Access<'_>,
    base: u64,
    blocks: u32,
    seed: u64,
) -> Result<Stored, Error> {
    let capabilities = Capabilities(access.registers.read64(register::CAPABILITIES));
    if !capabilities.suffice() {
        return Err(Error::Unsupported);
    }
    let outcome = match start(access, base, capabilities) {
        Ok(mut drive) => drive.write_and_read(blocks, seed),
        Err(error) => Err(error),
    };
    let quiet = switch(access, capabilities, 0, Step::Disable);
    let stored = outcome?;
    quiet?;
    Ok(stored)
}

/// Enables or disables the controller and waits until it says so.
fn switch(
    access: &mut Access<'_>,
    capabilities: Capabilities,
    configuration: u32,
    step: Step,
) -> Result<(), Error> {
    let Access {
        registers, clock, ..
    } = access;
    registers.write32(register::CONFIGURATION, configuration);
    let enabled = configuration & 1;
    let mut status = 0;
    let mut done = || {
        status = registers.read32(register::STATUS);
        status & READY == enabled || enabled != 0 && status & FATAL != 0
    };
    if !wait_until(*clock, capabilities.limit_us(), &mut done) {
        Err(Error::TimedOut(step))
    } else if enabled != 0 && status & FATAL != 0 {
        Err(Error::Fatal)
    } else {
        Ok(())
    }
}

/// "Memory-based Transport Controller Initialization", as far as one pair of I/O queues.
fn start<'a, 'b>(
    access: &'a mut Access<'b>,
    base: u64,
    capabilities: Capabilities,
) -> Result<Drive<'a, 'b>, Error> {
    switch(access, capabilities, 0, Step::Disable)?;
    clear(access.memory, base, WRITTEN.start as u32);
    let registers = &mut *access.registers;
    registers.write32(register::INTERRUPT_MASK_SET, !0);
    let last = u32::from(DEPTH - 1);
    registers.write32(register::ADMIN_QUEUE_SIZES, last << 16 | last);
    registers.write64(register::ADMIN_SUBMISSIONS, base + ADMIN_SUBMISSIONS.start);
    registers.write64(register::ADMIN_COMPLETIONS, base + ADMIN_COMPLETIONS.start);
    switch(access, capabilities, ENABLED, Step::Enable)?;

    let stride = capabilities.stride();
    let mut queue = Queue::new(
        base + ADMIN_SUBMISSIONS.start,
        base + ADMIN_COMPLETIONS.start,
        register::DOORBELLS,
        stride,
    );
    let identity = base + IDENTITY.start;
    let mut identify = |access: &mut Access<'_>, namespace, what| {
        let command = Command {
            opcode: admin::IDENTIFY,
            namespace,
            pages: [identity, 0],
            arguments: [what, 0, 0],
        };
        queue.run(access, &command)
    };
    identify(access, 0, identify::CONTROLLER)?;
    if field32(access.memory, identity + 516) < NAMESPACE {
        return Err(Error::NoNamespace);
    }
    clear(access.memory, identity, PAGE as u32);
    identify(access, NAMESPACE, identify::NAMESPACE)?;
    let (size, block_bytes) = namespace(access.memory, identity)?;

    let identifier = last << 16 | u32::from(IO_QUEUE);
    let create = |opcode, region: Region, queue_of| Command {
        opcode,
        namespace: 0,
        pages: [base + region.start, 0],
        arguments: [identifier, queue_of << 16 | CONTIGUOUS, 0],
    };
    queue.run(access, &create(admin::CREATE_COMPLETIONS, COMPLETIONS, 0))?;
    let completions = u32::from(IO_QUEUE);
    queue.run(
        access,
        &create(admin::CREATE_SUBMISSIONS, SUBMISSIONS, completions),
    )?;
    let queue = Queue::new(
        base + SUBMISSIONS.start,
        base + COMPLETIONS.start,
        register::DOORBELLS + 2 * completions * stride,
        stride,
    );
    Ok(Drive {
        access,
        queue,
        base,
        size,
        block_bytes,
    })
}

/// Blocks of the namespace, and bytes of a block, from its "Identify Namespace Data Structure".
fn namespace(memory: &mut dyn DmaMemory, identity: u64) -> Result<(u64, u32), Error> {
    let size =
        u64::from(field32(memory, identity + 4)) << 32 | u64::from(field32(memory, identity));
    // Bits 3:0 and, above the one for metadata's place, bits 6:5.
    let formatted = u64::from(field32(memory, identity + 26));
    let index = formatted & 0xf | formatted >> 1 & 0x30;
    let format = field32(memory, identity + 128 + 4 * index);
    let metadata = format as u16;
    let shift = (format >> 16) as u8;
    if metadata == 0 && (9..=12).contains(&shift) {
        Ok((size, 1 << shift))
    } else {
        Err(Error::Format { metadata, shift })
    }
}

fn field32(memory: &mut dyn DmaMemory, at: u64) -> u32 {
    let mut bytes = [0; 4];
    memory.read(at, &mut bytes);
    u32::from_le_bytes(bytes)
}

/// A namespace that can be written and read.
struct Drive<'a, 'b> {
    access: &'a mut Access<'b>,
    queue: Queue,
    base: u64,
    /// In blocks.
    size: u64,
    block_bytes: u32,
}

impl Drive<'_, '_> {
    fn write_and_read(&mut self, blocks: u32, seed: u64) -> Result<Stored, Error> {
        if self.size < blocks.into() {
            return Err(Error::TooSmall(self.size));
        }
        let mut sum = Crc32::new();
        self.each_batch(blocks, |drive, blocks| drive.write(blocks, seed))?;
        self.each_batch(blocks, |drive, blocks| drive.read(blocks, seed, &mut sum))?;
        Ok(Stored {
            blocks,
            bytes: u64::from(blocks) * u64::from(self.block_bytes),
            checksum: sum.value(),
        })
    }

    fn each_batch(
        &mut self,
        blocks: u32,
        mut act: impl FnMut(&mut Self, Range<u32>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let step = BATCH * self.blocks_a_command();
        for first in (0..blocks).step_by(step as usize) {
            act(self, first..blocks.min(first.saturating_add(step)))?;
        }
        Ok(())
    }

    fn write(&mut self, blocks: Range<u32>, seed: u64) -> Result<(), Error> {
        for block in blocks.clone() {
            let at = self.place(WRITTEN, &blocks, block);
            let pattern = Pattern::new(seed, block.into());
            pattern.store(self.access.memory, at, self.block_bytes);
        }
        self.transfer(io::WRITE, WRITTEN, blocks)
    }

    fn read(&mut self, blocks: Range<u32>, seed: u64, sum: &mut Crc32) -> Result<(), Error> {
        clear(
            self.access.memory,
            self.base + READ.start,
            READ.bytes as u32,
        );
        self.transfer(io::READ, READ, blocks.clone())?;
        for block in blocks.clone() {
            let start = self.place(READ, &blocks, block);
            let mut arrival = Arrival {
                memory: self.access.memory,
                start,
                sum,
            };
            arrival
                .expect_pattern(0, Pattern::new(seed, block.into()), self.block_bytes)
                .map_err(|difference| Error::Content { block, difference })?;
        }
        Ok(())
    }

    /// Submits the commands of a batch together, then waits for each.
    fn transfer(&mut self, opcode: u8, region: Region, blocks: Range<u32>) -> Result<(), Error> {
        for first in blocks.clone().step_by(self.blocks_a_command() as usize) {
            let count = (blocks.end - first).min(self.blocks_a_command());
            let at = self.place(region, &blocks, first);
            let second = match u64::from(count * self.block_bytes) > PAGE {
                true => at + PAGE,
                false => 0,
            };
            let command = Command {
                opcode,
                namespace: NAMESPACE,
                pages: [at, second],
                arguments: [first, 0, count - 1],
            };
            self.queue.submit(self.access, &command);
        }
        self.queue.finish(self.access, opcode)
    }

    fn blocks_a_command(&self) -> u32 {
        TRANSFER as u32 / self.block_bytes
    }

    /// Where a block of a batch lies.
    fn place(&self, region: Region, batch: &Range<u32>, block: u32) -> u64 {
        self.base + region.start + u64::from(block - batch.start) * u64::from(self.block_bytes)
    }
}

#[cfg(test)]
mod tests;
