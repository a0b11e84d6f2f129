//! A pair of NVMe queues: commands into one ring, completions out of the other.
//!
//! Every user submits a few commands and then waits for all of them, so a ring of [`DEPTH`] never fills. See "Memory-based
//! Transport Queue Model" and "Completion Queue Entry".

use super::{Error, FATAL, Step, field32, register};
use crate::{Access, wait_until};

/// Entries of each ring; one stays free, which tells a full ring from an empty one.
pub(super) const DEPTH: u16 = 8;

const COMMAND_BYTES: u64 = 64;
const COMPLETION_BYTES: u64 = 16;
/// Where a completion has its identifier, phase and status.
const OUTCOME_AT: u64 = 12;
/// In the outcome: inverts with every lap of the ring.
const PHASE: u32 = 1 << 16;

/// Longer than any command used here takes.
const LIMIT_US: u64 = 5_000_000;

/// The fields used of a "Submission Queue Entry".
pub(super) struct Command {
    pub(super) opcode: u8,
    pub(super) namespace: u32,
    /// The first two physical region pages.
    pub(super) pages: [u64; 2],
    /// Command double words 10 to 12.
    pub(super) arguments: [u32; 3],
}

impl Command {
    fn bytes(&self, identifier: u16) -> [u8; COMMAND_BYTES as usize] {
        let [first, second] = self.pages;
        let [ten, eleven, twelve] = self.arguments;
        let mut bytes = [0; COMMAND_BYTES as usize];
        let words = [
            u32::from(self.opcode) | u32::from(identifier) << 16,
            self.namespace,
            0,
            0,
            0,
            0,
            first as u32,
            (first >> 32) as u32,
            second as u32,
            (second >> 32) as u32,
            ten,
            eleven,
            twelve,
        ];
        for (four, word) in bytes.chunks_exact_mut(4).zip(words) {
            four.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// A pair of queues, empty at first, in memory that is zero.
pub(super) struct Queue {
    submissions: u64,
    completions: u64,
    tail_doorbell: u32,
    head_doorbell: u32,
    tail: u16,
    head: u16,
    /// What the next completion's phase bit is going to be.
    phase: u32,
    /// A bit for each slot whose command is under way; the slot is its identifier.
    under_way: u16,
}

impl Queue {
    pub(super) fn new(submissions: u64, completions: u64, doorbell: u32, stride: u32) -> Self {
        Self {
            submissions,
            completions,
            tail_doorbell: doorbell,
            head_doorbell: doorbell + stride,
            tail: 0,
            head: 0,
            phase: PHASE,
            under_way: 0,
        }
    }

    /// Submits a command and waits for it.
    pub(super) fn run(&mut self, access: &mut Access<'_>, command: &Command) -> Result<(), Error> {
        self.submit(access, command);
        self.finish(access, command.opcode)
    }

    pub(super) fn submit(&mut self, access: &mut Access<'_>, command: &Command) {
        let at = self.submissions + u64::from(self.tail) * COMMAND_BYTES;
        access.memory.write(at, &command.bytes(self.tail));
        self.under_way |= 1 << self.tail;
        self.tail = (self.tail + 1) % DEPTH;
        access
            .registers
            .write32(self.tail_doorbell, self.tail.into());
    }

    /// Waits for all that was submitted, commands of `opcode`.
    pub(super) fn finish(&mut self, access: &mut Access<'_>, opcode: u8) -> Result<(), Error> {
        while self.under_way != 0 {
            let outcome = self.await_outcome(access, opcode)?;
            let identifier = outcome as u16;
            let bit = 1_u16.checked_shl(identifier.into()).unwrap_or(0);
            if self.under_way & bit == 0 {
                return Err(Error::Stray(identifier));
            }
            self.under_way &= !bit;
            // Above the phase; the two topmost bits are advice about a retry.
            let status = (outcome >> 17) as u16 & 0x7ff;
            if status != 0 {
                return Err(Error::Failed { opcode, status });
            }
        }
        Ok(())
    }

    /// The next completion's identifier, phase and status.
    fn await_outcome(&mut self, access: &mut Access<'_>, opcode: u8) -> Result<u32, Error> {
        let at = self.completions + u64::from(self.head) * COMPLETION_BYTES + OUTCOME_AT;
        let Access {
            registers,
            memory,
            clock,
        } = access;
        let mut fatal = false;
        let mut done = || {
            fatal = registers.read32(register::STATUS) & FATAL != 0;
            fatal || field32(*memory, at) & PHASE == self.phase
        };
        if !wait_until(*clock, LIMIT_US, &mut done) {
            return Err(Error::TimedOut(Step::Command(opcode)));
        }
        if fatal {
            return Err(Error::Fatal);
        }
        self.head = (self.head + 1) % DEPTH;
        if self.head == 0 {
            self.phase ^= PHASE;
        }
        // Read again: what came with the phase may be older where memory is copied by the byte.
        let outcome = field32(access.memory, at);
        access
            .registers
            .write32(self.head_doorbell, self.head.into());
        Ok(outcome)
    }
}
