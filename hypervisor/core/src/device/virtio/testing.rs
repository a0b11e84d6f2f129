//! A VM for the tests of queues and devices: memory in a vector, interrupts in a list, and the driver's side of a ring.

use super::{Features, Queue};
use crate::addr::Gpa;
use crate::bus::{GuestRam, Signal, Signals};

/// Descriptor flags.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// One access to memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Access {
    pub(crate) at: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) write: bool,
}

/// What another vCPU does to memory meanwhile.
pub(crate) type Meddler = Box<dyn FnMut(&mut [u8])>;

/// A VM's memory from address 0 on, and what reached its vCPUs.
pub(crate) struct Machine {
    pub(crate) ram: Vec<u8>,
    pub(crate) vcpus: u32,
    pub(crate) signals: Vec<(u32, Signal)>,
    /// Every access, while this is some.
    pub(crate) accesses: Option<Vec<Access>>,
    /// Runs after every read: another vCPU that writes meanwhile.
    pub(crate) meddle: Option<Meddler>,
}

impl Machine {
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            ram: vec![0; bytes],
            vcpus: 2,
            signals: Vec::new(),
            accesses: None,
            meddle: None,
        }
    }

    pub(crate) fn bytes(&self, at: u64, count: usize) -> &[u8] {
        &self.ram[at as usize..at as usize + count]
    }

    pub(crate) fn put(&mut self, at: u64, bytes: &[u8]) {
        self.ram[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn u16(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.bytes(at, 2).try_into().unwrap())
    }

    pub(crate) fn put_u16(&mut self, at: u64, value: u16) {
        self.put(at, &value.to_le_bytes());
    }

    /// The vectors that vCPU `vcpu` got since the last call.
    pub(crate) fn interrupts(&mut self, vcpu: u32) -> Vec<u8> {
        std::mem::take(&mut self.signals)
            .into_iter()
            .map(|(to, signal)| match signal {
                Signal::Interrupt { vector, .. } if to == vcpu => vector,
                other => panic!("vCPU {to} got {other:?}"),
            })
            .collect()
    }

    fn range(&self, at: Gpa, bytes: usize) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(at.0).ok()?;
        let end = start.checked_add(bytes)?;
        (end <= self.ram.len()).then_some(start..end)
    }

    fn record(&mut self, at: Gpa, bytes: &[u8], write: bool) {
        if let Some(accesses) = &mut self.accesses {
            accesses.push(Access {
                at: at.0,
                bytes: bytes.to_vec(),
                write,
            });
        }
    }
}

impl GuestRam for Machine {
    fn read(&mut self, gpa: Gpa, bytes: &mut [u8]) -> bool {
        let Some(range) = self.range(gpa, bytes.len()) else {
            return false;
        };
        bytes.copy_from_slice(&self.ram[range]);
        self.record(gpa, bytes, false);
        if let Some(meddle) = &mut self.meddle {
            meddle(&mut self.ram);
        }
        true
    }

    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> bool {
        let Some(range) = self.range(gpa, bytes.len()) else {
            return false;
        };
        self.ram[range].copy_from_slice(bytes);
        self.record(gpa, bytes, true);
        true
    }
}

impl Signals for Machine {
    fn vcpus(&self) -> u32 {
        self.vcpus
    }

    fn signal(&mut self, to: u32, signal: Signal) {
        self.signals.push((to, signal));
    }
}

/// The driver's side of a queue whose parts, and the buffers of whose chains, lie one after the other in memory.
pub(crate) struct Ring {
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) driver: u64,
    pub(crate) device: u64,
    /// Where the next buffer goes.
    buffers: u64,
    first_buffer: u64,
    next_descriptor: u16,
    pub(crate) available: u16,
    seen: u16,
}

impl Ring {
    /// A ring of `size` entries that begins at `base`, a page boundary; it and its buffers take up to 1 MiB.
    pub(crate) fn new(base: u64, size: u16) -> Self {
        let buffers = base + 0x3000;
        Self {
            size,
            descriptors: base,
            driver: base + 0x1000,
            device: base + 0x2000,
            buffers,
            first_buffer: buffers,
            next_descriptor: 0,
            available: 0,
            seen: 0,
        }
    }

    /// The device's side, enabled, and allowed a pass.
    pub(crate) fn queue(&self, features: Features) -> Queue {
        let mut queue = Queue::new(super::queue::MAX_SIZE);
        queue.set_size(self.size);
        queue.set_addresses(Gpa(self.descriptors), Gpa(self.driver), Gpa(self.device));
        queue.enable(features).unwrap();
        queue.grant();
        queue
    }

    /// Writes descriptor `index` of the table at `table`.
    pub(crate) fn describe_in(
        machine: &mut Machine,
        table: u64,
        index: u16,
        (at, bytes, flags, next): (u64, u32, u16, u16),
    ) {
        let slot = table + 16 * u64::from(index);
        machine.put(slot, &at.to_le_bytes());
        machine.put(slot + 8, &bytes.to_le_bytes());
        machine.put(slot + 12, &flags.to_le_bytes());
        machine.put(slot + 14, &next.to_le_bytes());
    }

    /// Writes descriptor `index` of the queue's table.
    pub(crate) fn describe(
        &self,
        machine: &mut Machine,
        index: u16,
        descriptor: (u64, u32, u16, u16),
    ) {
        Self::describe_in(machine, self.descriptors, index, descriptor);
    }

    /// Makes the chain that starts at `head` available.
    pub(crate) fn offer(&mut self, machine: &mut Machine, head: u16) {
        let slot = u64::from(self.available % self.size);
        machine.put_u16(self.driver + 4 + 2 * slot, head);
        self.available = self.available.wrapping_add(1);
        machine.put_u16(self.driver + 2, self.available);
    }

    /// Builds a chain with these contents to read and then buffers of these sizes to write, and makes it available. The
    /// addresses of its buffers.
    pub(crate) fn send(
        &mut self,
        machine: &mut Machine,
        readable: &[&[u8]],
        writable: &[usize],
    ) -> (u16, Vec<u64>) {
        let count = (readable.len() + writable.len()) as u16;
        let head = self.next_descriptor;
        let sizes = readable
            .iter()
            .map(|bytes| bytes.len())
            .chain(writable.iter().copied());
        let mut at = Vec::new();
        for (n, bytes) in (0..).zip(sizes) {
            if self.buffers + bytes as u64 > self.first_buffer + 0xf_0000 {
                self.buffers = self.first_buffer;
            }
            let index = (head + n) % self.size;
            let mut flags = if n + 1 < count { NEXT } else { 0 };
            match readable.get(usize::from(n)) {
                Some(content) => machine.put(self.buffers, content),
                None => flags |= WRITE,
            }
            let next = (index + 1) % self.size;
            self.describe(machine, index, (self.buffers, bytes as u32, flags, next));
            at.push(self.buffers);
            self.buffers += bytes as u64;
        }
        self.next_descriptor = (head + count) % self.size;
        self.offer(machine, head);
        (head, at)
    }

    /// The next chain that the device completed, and how many bytes it wrote.
    pub(crate) fn used(&mut self, machine: &Machine) -> Option<(u16, u32)> {
        if machine.u16(self.device + 2) == self.seen {
            return None;
        }
        let slot = self.device + 4 + 8 * u64::from(self.seen % self.size);
        self.seen = self.seen.wrapping_add(1);
        let word = |at| u32::from_le_bytes(machine.bytes(at, 4).try_into().unwrap());
        Some((word(slot) as u16, word(slot + 4)))
    }

    /// Where the driver's event index is, and the device's.
    pub(crate) fn events(&self) -> (u64, u64) {
        let size = u64::from(self.size);
        (self.driver + 4 + 2 * size, self.device + 4 + 8 * size)
    }
}
