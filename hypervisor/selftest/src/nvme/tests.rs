//! The driver against a controller that only exists here, executes the commands, and can be made to fail.

use super::*;
use crate::testing::{Pauses, Ram};
use crate::{DmaMemory, Registers};
use proptest::prelude::*;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    NeverStops,
    NeverReady,
    /// Gives up instead of becoming ready.
    Refuses,
    /// Takes this admin or I/O command and says nothing.
    Mute(bool, u8),
    /// Gives up at this admin or I/O command.
    Fatal(bool, u8),
    /// Completes this admin or I/O command with this status.
    Status(bool, u8, u16),
    /// Completes a command nobody submitted.
    Stray,
    /// This block's byte at this offset is read as another.
    Flip(u32, usize),
    /// Reads of this block move nothing, and succeed.
    Withheld(u32),
}

#[derive(Clone, Copy, Default)]
struct Ring {
    submissions: u64,
    completions: u64,
    head: u16,
    filled: u16,
}

struct Fake {
    ram: Ram,
    capabilities: u64,
    configuration: u32,
    status: u32,
    sizes: u32,
    /// Admin, and the one pair for I/O.
    rings: [Ring; 2],
    shift: u32,
    format: u32,
    namespaces: u32,
    media: Vec<u8>,
    fault: Fault,
}

impl Fake {
    fn new(ram: &Ram, blocks: u32, shift: u32, fault: Fault) -> Self {
        Self {
            ram: ram.clone(),
            // Doorbells 16 bytes apart, the NVM command set, ready within a second, queues of 32.
            capabilities: 1 << 37 | 2 << 32 | 2 << 24 | 31,
            configuration: 0,
            // As the firmware may have left it.
            status: READY,
            sizes: 0,
            rings: [Ring::default(); 2],
            shift,
            format: shift << 16,
            namespaces: 1,
            media: vec![0x77; (blocks as usize) << shift],
            fault,
        }
    }

    fn configure(&mut self, value: u32) {
        self.configuration = value;
        self.status = match (value & 1, self.fault) {
            (0, Fault::NeverStops) => READY,
            (0, _) => 0,
            (_, Fault::NeverReady) => 0,
            (_, Fault::Refuses) => FATAL,
            _ => READY,
        };
        if value & 1 != 0 {
            assert_eq!(value, ENABLED);
            assert_eq!(self.sizes, 7 << 16 | 7);
            self.rings[0].head = 0;
            self.rings[0].filled = 0;
        }
    }

    fn ring_doorbell(&mut self, ring: usize, tail: u16) {
        while self.rings[ring].head != tail {
            let Ring {
                submissions, head, ..
            } = self.rings[ring];
            let words: Vec<u32> = self
                .ram
                .take::<64>(submissions + u64::from(head) * 64)
                .chunks(4)
                .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
                .collect();
            self.rings[ring].head = (head + 1) % DEPTH;
            let (io, opcode) = (ring == 1, words[0] as u8);
            let mut status = 0;
            match self.fault {
                Fault::Mute(of_io, which) if (of_io, which) == (io, opcode) => continue,
                Fault::Fatal(of_io, which) if (of_io, which) == (io, opcode) => {
                    self.status |= FATAL;
                    continue;
                }
                Fault::Status(of_io, which, bad) if (of_io, which) == (io, opcode) => status = bad,
                _ => self.execute(io, opcode, &words),
            }
            let identifier = match self.fault {
                Fault::Stray if io => 6,
                _ => words[0] >> 16,
            };
            self.complete(ring, identifier, status);
        }
    }

    fn execute(&mut self, io: bool, opcode: u8, words: &[u32]) {
        let page = |at: usize| u64::from(words[at + 1]) << 32 | u64::from(words[at]);
        let created = |own: &Self| {
            assert_eq!(words[10], 7 << 16 | 1);
            assert_eq!(own.rings[1].filled, 0);
            page(6)
        };
        match (io, opcode) {
            (false, admin::IDENTIFY) => self.identify(page(6), words[10]),
            (false, admin::CREATE_COMPLETIONS) => {
                assert_eq!(words[11], 1, "contiguous, without interrupts");
                self.rings[1] = Ring::default();
                self.rings[1].completions = created(self);
            }
            (false, admin::CREATE_SUBMISSIONS) => {
                assert_eq!(
                    words[11],
                    1 << 16 | 1,
                    "contiguous, completing in the other"
                );
                assert_ne!(self.rings[1].completions, 0);
                self.rings[1].submissions = created(self);
            }
            (true, io::WRITE | io::READ) => {
                assert_eq!(words[1], 1);
                let bytes = (words[12] as usize + 1) << self.shift;
                self.transfer(opcode, words[10], bytes, [page(6), page(8)]);
            }
            _ => panic!("command {opcode:#x}"),
        }
    }

    fn identify(&mut self, at: u64, what: u32) {
        let mut data = [0; 4096];
        match what {
            identify::CONTROLLER => data[516..520].copy_from_slice(&self.namespaces.to_le_bytes()),
            _ => {
                let blocks = (self.media.len() >> self.shift) as u64;
                data[..8].copy_from_slice(&blocks.to_le_bytes());
                // Format 18, with a bit set that is no part of the index.
                data[26] = 1 << 5 | 1 << 4 | 2;
                data[128 + 4 * 18..][..4].copy_from_slice(&self.format.to_le_bytes());
            }
        }
        self.ram.write(at, &data);
    }

    fn transfer(&mut self, opcode: u8, first: u32, bytes: usize, pages: [u64; 2]) {
        let start = (first as usize) << self.shift;
        assert!(pages[0].is_multiple_of(4096));
        assert_eq!(
            pages[1] != 0,
            bytes > 4096,
            "the second page where it is needed"
        );
        for (index, page) in pages.into_iter().enumerate() {
            let (from, to) = (start + index * 4096, start + bytes.min((index + 1) * 4096));
            if from >= to {
                continue;
            }
            if opcode == io::WRITE {
                self.ram.read(page, &mut self.media[from..to]);
                continue;
            }
            let mut data = self.media[from..to].to_vec();
            let offset_of = |block: u32| ((block as usize) << self.shift).wrapping_sub(from);
            match self.fault {
                Fault::Flip(block, offset) => {
                    if let Some(byte) = data.get_mut(offset_of(block).wrapping_add(offset)) {
                        *byte ^= 0x10;
                    }
                }
                Fault::Withheld(block) if offset_of(block) < data.len() => continue,
                _ => {}
            }
            self.ram.write(page, &data);
        }
    }

    fn complete(&mut self, ring: usize, identifier: u32, status: u16) {
        let own = &mut self.rings[ring];
        let (slot, lap) = (own.filled % DEPTH, own.filled / DEPTH);
        own.filled += 1;
        let phase = u32::from(lap % 2 == 0) << 16;
        let outcome = identifier | phase | u32::from(status) << 17;
        let at = own.completions + u64::from(slot) * 16 + 12;
        self.ram.write(at, &outcome.to_le_bytes());
    }
}

impl Registers for Fake {
    fn read32(&mut self, at: u32) -> u32 {
        match at {
            register::CAPABILITIES => self.capabilities as u32,
            0x04 => (self.capabilities >> 32) as u32,
            register::STATUS => self.status,
            _ => panic!("read of {at:#x}"),
        }
    }

    fn write32(&mut self, at: u32, value: u32) {
        match at {
            register::INTERRUPT_MASK_SET => assert_eq!(value, !0),
            register::CONFIGURATION => self.configure(value),
            register::ADMIN_QUEUE_SIZES => self.sizes = value,
            0x1000 => self.ring_doorbell(0, value as u16),
            0x1020 => self.ring_doorbell(1, value as u16),
            0x1010 => assert_eq!(value, u32::from(self.rings[0].filled % DEPTH)),
            0x1030 => assert!(value < DEPTH.into()),
            _ => panic!("write of {at:#x}"),
        }
    }

    fn write64(&mut self, at: u32, value: u64) {
        match at {
            register::ADMIN_SUBMISSIONS => self.rings[0].submissions = value,
            register::ADMIN_COMPLETIONS => self.rings[0].completions = value,
            _ => panic!("64-bit write of {at:#x}"),
        }
    }
}

const BASE: u64 = 0x1_2345_6000;

fn run(fake: &mut Fake, ram: &mut Ram, blocks: u32, seed: u64) -> Result<Stored, Error> {
    let mut access = Access {
        registers: fake,
        memory: ram,
        clock: &mut Pauses(0),
    };
    exchange(&mut access, BASE, blocks, seed)
}

/// What the driver says of a controller as `change` makes it.
fn error(fault: Fault, change: impl FnOnce(&mut Fake)) -> Error {
    let mut ram = Ram::new(BASE, MEMORY_BYTES);
    let mut fake = Fake::new(&ram, 100, 9, fault);
    change(&mut fake);
    let outcome = run(&mut fake, &mut ram, 100, 5);
    assert_eq!(fake.configuration, 0, "left enabled");
    outcome.unwrap_err()
}

fn fault(fault: Fault) -> Error {
    error(fault, |_| {})
}

#[test]
fn a_controller_that_never_answers_is_named_with_what_was_waited_for() {
    let stuck = Error::TimedOut;
    assert_eq!(fault(Fault::NeverStops), stuck(Step::Disable));
    assert_eq!(fault(Fault::NeverReady), stuck(Step::Enable));
    let mute = |io, opcode| fault(Fault::Mute(io, opcode));
    assert_eq!(mute(false, admin::IDENTIFY), stuck(Step::Command(6)));
    assert_eq!(mute(true, io::WRITE), stuck(Step::Command(1)));
    assert_eq!(mute(true, io::READ), stuck(Step::Command(2)));
    assert_eq!(
        error(Fault::None, |fake| fake.capabilities = !0),
        Error::Unsupported
    );
}

#[test]
fn a_controller_that_gives_up_is_not_waited_for() {
    assert_eq!(fault(Fault::Refuses), Error::Fatal);
    assert_eq!(fault(Fault::Fatal(false, admin::IDENTIFY)), Error::Fatal);
    assert_eq!(fault(Fault::Fatal(true, io::READ)), Error::Fatal);
}

#[test]
fn a_failed_or_stray_command_is_named() {
    let failed = |opcode, status| Error::Failed { opcode, status };
    let create = Fault::Status(false, admin::CREATE_SUBMISSIONS, 0x101);
    assert_eq!(fault(create), failed(1, 0x101));
    assert_eq!(
        fault(Fault::Status(true, io::READ, 0x4281)),
        failed(2, 0x281)
    );
    assert_eq!(fault(Fault::Stray), Error::Stray(6));
}

#[test]
fn a_namespace_that_does_not_suit_is_named() {
    assert_eq!(
        error(Fault::None, |fake| fake.namespaces = 0),
        Error::NoNamespace
    );
    assert_eq!(
        error(Fault::None, |fake| fake.media.truncate(99 << 9)),
        Error::TooSmall(99)
    );
    let format = |metadata, shift| Error::Format { metadata, shift };
    assert_eq!(
        error(Fault::None, |fake| fake.format = 9 << 16 | 8),
        format(8, 9)
    );
    assert_eq!(
        error(Fault::None, |fake| fake.format = 13 << 16),
        format(0, 13)
    );
}

#[test]
fn a_wrong_byte_is_named_by_block_and_offset() {
    for (block, offset) in [(0, 0), (8, 511), (15, 64), (99, 63)] {
        let Error::Content {
            block: named,
            difference,
        } = fault(Fault::Flip(block, offset))
        else {
            panic!("block {block}, byte {offset}");
        };
        assert_eq!((named, difference.offset), (block, offset as u32));
        assert_eq!(difference.expected ^ difference.found, 0x10);
    }
}

#[test]
fn a_block_that_never_came_is_not_mistaken_for_what_was_read_before() {
    let mut ram = Ram::new(BASE, MEMORY_BYTES);
    // 32 blocks are what the memory holds at a time: those of the first run lie where those of the second go.
    let mut fake = Fake::new(&ram, 32, 9, Fault::None);
    assert!(run(&mut fake, &mut ram, 32, 5).is_ok());
    fake.fault = Fault::Withheld(16);
    let Err(Error::Content { block, difference }) = run(&mut fake, &mut ram, 32, 5) else {
        panic!("passed");
    };
    assert_eq!((block, difference.found), (16, 0));
}

proptest! {
    /// The memory ends the test when anybody leaves it, and regions that overlapped would spoil blocks or queues.
    #[test]
    fn every_block_comes_back_and_is_counted(blocks in 0_u32..300, shift in 9_u32..=12, seed: u64) {
        let mut ram = Ram::new(BASE, MEMORY_BYTES);
        let mut fake = Fake::new(&ram, blocks + 1, shift, Fault::None);
        let outcome = run(&mut fake, &mut ram, blocks, seed);
        let (ours, beyond) = fake.media.split_at((blocks as usize) << shift);
        let mut sum = Crc32::new();
        sum.add(ours);
        let expected = Stored { blocks, bytes: ours.len() as u64, checksum: sum.value() };
        prop_assert_eq!(outcome, Ok(expected));
        prop_assert!(beyond.iter().all(|byte| *byte == 0x77), "wrote beyond");
        prop_assert_eq!(fake.configuration, 0);
    }
}
