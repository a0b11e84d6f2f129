//! The driver against a controller that only exists here, executes the descriptors, and can be made to fail.

use super::*;
use crate::testing::{Pauses, Ram};
use crate::{Difference, DmaMemory, Registers};
use proptest::prelude::*;
use std::collections::HashMap;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    StuckReset,
    NoLink,
    /// From this frame on, nothing is fetched.
    Deaf(u32),
    /// From this frame on, nothing is brought back.
    Mute(u32),
    /// This frame's byte at this offset arrives as another.
    Flip(u32, usize),
    /// This frame's bytes stay where they are, though the descriptor says they came.
    Withheld(u32),
    /// This frame arrives without its last byte.
    Short(u32),
    /// This frame arrives with an error.
    Marked(u32),
}

struct Fake {
    ram: Ram,
    registers: HashMap<u32, u32>,
    fault: Fault,
    sent: Vec<Vec<u8>>,
    resets: u32,
}

impl Fake {
    fn new(ram: &Ram, fault: Fault) -> Self {
        Self {
            ram: ram.clone(),
            registers: HashMap::new(),
            fault,
            sent: Vec::new(),
            resets: 0,
        }
    }

    fn get(&self, register: u32) -> u32 {
        self.registers.get(&register).copied().unwrap_or(0)
    }

    /// Address of a ring's head descriptor, with the head moved on; none if the ring is empty.
    fn pop(&mut self, ring: u32) -> Option<u64> {
        let head = self.get(ring + register::ring::HEAD);
        if head == self.get(ring + register::ring::TAIL) {
            return None;
        }
        let length = self.get(ring + register::ring::LENGTH);
        assert!(length.is_multiple_of(128));
        let base = u64::from(self.get(ring + register::ring::BASE_HIGH)) << 32
            | u64::from(self.get(ring + register::ring::BASE_LOW));
        let next = (head + 1) % (length / 16);
        self.registers.insert(ring + register::ring::HEAD, next);
        Some(base + u64::from(head) * 16)
    }

    fn transmit(&mut self) {
        while self.get(register::TRANSMIT_CONTROL) & 2 != 0 {
            let frame = self.sent.len() as u32;
            if matches!(self.fault, Fault::Deaf(first) if frame >= first) {
                return;
            }
            let Some(at) = self.pop(register::TRANSMIT_RING) else {
                return;
            };
            let buffer = u64::from_le_bytes(self.ram.take(at));
            let [low, high, _, command, status, ..] = self.ram.take::<8>(at + 8);
            assert_eq!(command, 0b1011, "a whole frame, with checksum and report");
            assert_eq!(status, 0);
            let length = usize::from(u16::from_le_bytes([low, high]));
            let bytes = self.ram.take_vec(buffer, length);
            self.sent.push(bytes.clone());
            self.ram.write(at + 12, &[1]);
            self.loop_back(frame, bytes);
        }
    }

    fn loop_back(&mut self, frame: u32, mut bytes: Vec<u8>) {
        let control = self.get(register::RECEIVE_CONTROL);
        assert_eq!(control >> 6 & 3, 1, "MAC loopback");
        if control & 2 == 0 || matches!(self.fault, Fault::Mute(first) if frame >= first) {
            return;
        }
        let at = self.pop(register::RECEIVE_RING).expect("a free buffer");
        let buffer = u64::from_le_bytes(self.ram.take(at));
        let mut errors = 0;
        match self.fault {
            Fault::Flip(which, offset) if which == frame => bytes[offset] ^= 0x10,
            Fault::Short(which) if which == frame => drop(bytes.pop()),
            Fault::Marked(which) if which == frame => errors = 0x81,
            _ => {}
        }
        if self.fault != Fault::Withheld(frame) {
            self.ram.write(buffer, &bytes);
        }
        let [low, high] = (bytes.len() as u16).to_le_bytes();
        self.ram.write(at + 8, &[low, high, 0, 0, 3, errors, 0, 0]);
    }
}

impl Registers for Fake {
    fn read32(&mut self, at: u32) -> u32 {
        match at {
            register::DEVICE_STATUS => {
                u32::from(
                    self.fault != Fault::NoLink && self.get(register::DEVICE_CONTROL) & 0x40 != 0,
                ) << 1
            }
            _ => self.get(at),
        }
    }

    fn write32(&mut self, at: u32, mut value: u32) {
        if at == register::DEVICE_CONTROL && value & 1 << 26 != 0 {
            self.resets += 1;
            self.registers.clear();
            if self.fault != Fault::StuckReset {
                value = 0;
            }
        }
        self.registers.insert(at, value);
        if at == register::TRANSMIT_RING + register::ring::TAIL {
            self.transmit();
        }
    }

    fn write64(&mut self, at: u32, _: u64) {
        panic!("64-bit write of {at:#x}");
    }
}

const BASE: u64 = 0x1_2345_6000;

/// What the driver says, and the device as it is left.
fn exchanged(frames: u32, seed: u64, fault: Fault) -> (Result<Exchanged, Error>, Fake) {
    let mut ram = Ram::new(BASE, MEMORY_BYTES);
    let mut fake = Fake::new(&ram, fault);
    let mut access = Access {
        registers: &mut fake,
        memory: &mut ram,
        clock: &mut Pauses(0),
    };
    let outcome = exchange(&mut access, BASE, frames, seed);
    (outcome, fake)
}

fn error(fault: Fault) -> Error {
    let (outcome, fake) = exchanged(40, 5, fault);
    assert_eq!(fake.resets, 2);
    assert_eq!(fake.get(register::RECEIVE_CONTROL), 0, "left receiving");
    assert_eq!(fake.get(register::TRANSMIT_CONTROL), 0, "left sending");
    outcome.unwrap_err()
}

#[test]
fn a_controller_that_never_answers_is_named_with_what_was_waited_for() {
    assert_eq!(error(Fault::StuckReset), Error::TimedOut(Step::Reset));
    assert_eq!(error(Fault::NoLink), Error::TimedOut(Step::Link));
    assert_eq!(error(Fault::Deaf(0)), Error::TimedOut(Step::Transmit(0)));
    assert_eq!(error(Fault::Deaf(18)), Error::TimedOut(Step::Transmit(18)));
    assert_eq!(error(Fault::Mute(9)), Error::TimedOut(Step::Receive(9)));
}

#[test]
fn a_wrong_byte_is_named_by_frame_and_offset() {
    for (frame, offset) in [(0, 0), (1, 1513), (17, 13), (17, 14), (39, 59)] {
        let Error::Content {
            frame: named,
            difference,
        } = error(Fault::Flip(frame, offset))
        else {
            panic!("frame {frame}, byte {offset}");
        };
        assert_eq!((named, difference.offset), (frame, offset as u32));
        assert_eq!(difference.expected ^ difference.found, 0x10);
    }
}

#[test]
fn a_frame_whose_bytes_never_came_is_not_mistaken_for_an_earlier_one() {
    let difference = Difference {
        offset: 0,
        expected: 2,
        found: 0,
    };
    let missing = Error::Content {
        frame: 12,
        difference,
    };
    assert_eq!(error(Fault::Withheld(12)), missing);
}

#[test]
fn a_short_or_marked_frame_is_refused() {
    let shape = |received, errors| Error::Shape {
        frame: 1,
        length: LONGEST,
        received,
        errors,
    };
    assert_eq!(error(Fault::Short(1)), shape(1513, 0));
    assert_eq!(error(Fault::Marked(1)), shape(1514, 0x81));
}

#[test]
fn no_frames_are_no_error() {
    let none = Exchanged {
        frames: 0,
        bytes: 0,
        checksum: 0,
    };
    assert_eq!(exchanged(0, 1, Fault::None).0, Ok(none));
}

#[test]
fn lengths_reach_from_the_shortest_to_the_longest() {
    let (_, fake) = exchanged(3000, 9, Fault::None);
    let lengths: Vec<_> = fake.sent.iter().map(|frame| frame.len() as u32).collect();
    assert_eq!(lengths[..2], [SHORTEST, LONGEST]);
    assert!(
        lengths
            .iter()
            .all(|length| (SHORTEST..=LONGEST).contains(length))
    );
    assert!((700..860).contains(&(lengths.iter().sum::<u32>() / 3000)));
}

proptest! {
    /// The memory ends the test when anybody leaves it, and regions that overlapped would spoil frames.
    #[test]
    fn every_frame_comes_back_and_is_counted(frames in 0_u32..200, seed: u64) {
        let (outcome, fake) = exchanged(frames, seed, Fault::None);
        let all = fake.sent.concat();
        let mut sum = Crc32::new();
        sum.add(&all);
        let expected = Exchanged { frames, bytes: all.len() as u64, checksum: sum.value() };
        prop_assert_eq!(outcome, Ok(expected));
        prop_assert_eq!(fake.sent.len() as u32, frames);
        prop_assert_eq!(fake.get(register::INTERRUPT_MASK_CLEAR), !0);
    }
}
