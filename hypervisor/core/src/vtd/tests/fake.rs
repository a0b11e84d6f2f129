//! A remapping unit in software: it answers commands, works its queue off, records faults, and keeps a log.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::addr::{Frame, Hpa};
use crate::vtd::capability::Chosen;
use crate::vtd::invalidate::UnitId;
use crate::vtd::queue::{Descriptor, QueueMemory, SLOTS};
use crate::vtd::registers::{self, Global, Reg32, Reg64, UnitRegisters};
use crate::vtd::unit::{Enabled, Unit, Way};

/// 256 domains, three or four levels, 48 bits, 2 MiB and 1 GiB pages, masks up to 18, one fault record at 0x220.
pub const CAPABILITY: u64 = 2 | 6 << 8 | 47 << 16 | 0x22 << 24 | 3 << 34 | 1 << 39 | 18 << 48;
/// Coherent, queue, interrupt remapping, x2APIC, snoop control, IOTLB registers at 0xf0.
pub const EXTENDED: u64 = 0b1001_1011 | 0xf << 8;

pub const STATUS: Hpa = Hpa(0x7008);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The global command register was written: what is turned on by it, and what off.
    Command {
        on: Global,
        off: Global,
    },
    Write(u32, u64),
    Descriptor(Descriptor),
}

#[derive(Default, Debug)]
pub struct Machine {
    pub registers: BTreeMap<u32, u64>,
    pub ring: Vec<[u64; 2]>,
    pub status: u32,
    pub log: Vec<Event>,
    /// Commands that are never answered.
    pub stuck: u32,
    /// The queue stops with these fault status bits.
    pub queue_error: u64,
    /// The actual granularity told by register invalidations is this instead of what was asked for.
    pub actual: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct FakeUnit(pub Rc<RefCell<Machine>>);

impl FakeUnit {
    pub fn new(capability: u64, extended: u64) -> Self {
        let mut machine = Machine {
            ring: vec![[0; 2]; SLOTS],
            ..Machine::default()
        };
        machine.registers.insert(registers::VERSION.0, 0x10);
        machine
            .registers
            .insert(registers::CAPABILITY.0, capability);
        machine
            .registers
            .insert(registers::EXTENDED_CAPABILITY.0, extended);
        Self(Rc::new(RefCell::new(machine)))
    }

    pub fn chosen(&self) -> Chosen {
        Chosen::read(&mut self.clone(), true).unwrap()
    }

    pub fn set(&self, offset: u32, value: u64) {
        self.0.borrow_mut().registers.insert(offset, value);
    }

    pub fn get(&self, offset: u32) -> u64 {
        *self.0.borrow().registers.get(&offset).unwrap_or(&0)
    }

    pub fn take_log(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.borrow_mut().log)
    }

    /// What of the log was invalidation requests, waits left out.
    pub fn take_descriptors(&self) -> Vec<[u64; 2]> {
        let requests = |event| match event {
            Event::Descriptor(Descriptor(words)) if words[0] & 0xf != 5 => Some(words),
            _ => None,
        };
        self.take_log().into_iter().filter_map(requests).collect()
    }

    /// Brings the unit up all the way, without interrupt remapping.
    pub fn up(&self, id: u8) -> Unit<FakeUnit, Enabled, Way<FakeRing>> {
        let id = UnitId::new(id).unwrap();
        let unit = Unit::quiet(id, self.clone(), self.chosen()).unwrap();
        let unit = unit.invalidation(FakeRing(Rc::clone(&self.0))).unwrap();
        let unit = unit.root(Frame(0x40)).unwrap();
        let unit = unit.interrupts(None).unwrap().enable().unwrap();
        self.take_log();
        unit
    }
}

impl Machine {
    fn command(&mut self, value: u32) {
        let old = *self
            .registers
            .get(&registers::GLOBAL_STATUS.0)
            .unwrap_or(&0) as u32;
        let (on, off) = (value & !old, old & !value & !Global::ONE_SHOT.bits());
        self.log.push(Event::Command {
            on: Global::from_bits_retain(on),
            off: Global::from_bits_retain(off),
        });
        let changed = (on | off) & !self.stuck;
        let mut new = (old & !changed) | (value & changed);
        if self.stuck & registers::Global::WRITE_BUFFER.bits() == 0 {
            new &= !Global::WRITE_BUFFER.bits();
        } else {
            new |= value & Global::WRITE_BUFFER.bits();
        }
        self.registers
            .insert(registers::GLOBAL_STATUS.0, u64::from(new));
    }

    fn work(&mut self, tail: u64) {
        if self.queue_error != 0 {
            *self.registers.entry(registers::FAULT_STATUS.0).or_default() |= self.queue_error;
            return;
        }
        let mut head = *self.registers.get(&registers::QUEUE_HEAD.0).unwrap_or(&0);
        while head != tail {
            let words = self.ring[head as usize / 16];
            self.log.push(Event::Descriptor(Descriptor(words)));
            if words[0] & 0xf == 5 && words[0] & 1 << 5 != 0 {
                assert_eq!(words[1], STATUS.0);
                self.status = (words[0] >> 32) as u32;
            }
            head = (head + 16) % (16 * SLOTS as u64);
        }
        self.registers.insert(registers::QUEUE_HEAD.0, head);
    }
}

impl UnitRegisters for FakeUnit {
    fn read32(&mut self, register: Reg32) -> u32 {
        assert!(register.0.is_multiple_of(4));
        self.get(register.0) as u32
    }

    fn read64(&mut self, register: Reg64) -> u64 {
        assert!(register.0.is_multiple_of(8));
        self.get(register.0)
    }

    fn write32(&mut self, register: Reg32, value: u32) {
        let mut machine = self.0.borrow_mut();
        if register == registers::GLOBAL_COMMAND {
            return machine.command(value);
        }
        machine.log.push(Event::Write(register.0, u64::from(value)));
        let records = 0x220..0x320;
        if records.contains(&register.0) {
            // Writing one to the uppermost bit of a fault record clears it; PPF follows the records.
            let high = register.0 - 4;
            assert_eq!((register.0 % 16, value), (12, 1 << 31));
            machine
                .registers
                .entry(high)
                .and_modify(|word| *word &= !(1 << 63));
            let any = machine
                .registers
                .range(records)
                .any(|(at, word)| at % 16 == 8 && word >> 63 == 1);
            let status = machine
                .registers
                .entry(registers::FAULT_STATUS.0)
                .or_default();
            *status = *status & !2 | u64::from(any) << 1;
        } else if register == registers::FAULT_STATUS {
            machine
                .registers
                .entry(register.0)
                .and_modify(|old| *old &= !u64::from(value & 0x71));
        } else {
            let status = if register == registers::PROTECTED_MEMORY {
                value >> 31
            } else {
                0
            };
            machine
                .registers
                .insert(register.0, u64::from(value | status));
        }
    }

    fn write64(&mut self, register: Reg64, value: u64) {
        let mut machine = self.0.borrow_mut();
        machine.log.push(Event::Write(register.0, value));
        machine.registers.insert(register.0, value);
        let (asked, actual) = match register.0 {
            0x28 => (value >> 61 & 3, 59),
            0xf8 => (value >> 60 & 3, 57),
            0x88 => return machine.work(value),
            _ => return,
        };
        if machine.stuck == 0 {
            let done = machine.actual.unwrap_or(asked);
            machine
                .registers
                .insert(register.0, value & !(1 << 63) | done << actual);
        }
    }
}

#[derive(Debug)]
pub struct FakeRing(pub Rc<RefCell<Machine>>);

impl QueueMemory for FakeRing {
    fn ring(&self) -> Frame {
        Frame(0x99)
    }

    fn status_address(&self) -> Hpa {
        STATUS
    }

    fn write(&mut self, slot: usize, descriptor: Descriptor) {
        self.0.borrow_mut().ring[slot] = descriptor.0;
    }

    fn status(&mut self) -> u32 {
        self.0.borrow().status
    }
}
