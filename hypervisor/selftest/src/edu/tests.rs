//! The driver against an educational device that only exists here.

use super::*;
use crate::DmaMemory;
use crate::testing::{Pauses, Ram};
use proptest::prelude::*;

/// A device that takes a while for each transfer, and ends the test when one leaves its buffer.
struct Fake {
    ram: Ram,
    /// A byte longer than what transfers may reach: ending a transfer with it ends the test.
    buffer: [u8; 4096],
    identification: u32,
    liveness: u32,
    interrupt: u32,
    dma: [u64; 3],
    command: u64,
    /// Looks at the command register until the transfer is done; none: it never is.
    looks: Option<u32>,
    started: u32,
}

impl Fake {
    fn new(ram: &Ram) -> Self {
        Self {
            ram: ram.clone(),
            buffer: [0; 4096],
            identification: IDENTIFICATION,
            liveness: 0,
            interrupt: 0,
            dma: [0; 3],
            command: 0,
            looks: Some(100),
            started: 0,
        }
    }

    fn work(&mut self) {
        let [source, destination, count] = self.dma;
        let within = |address: u64| {
            let start = (address - BUFFER) as usize;
            let end = start + count as usize;
            assert!(start < end && end < 4096);
            start..end
        };
        if self.command & u64::from(TO_MEMORY) == 0 {
            self.ram.read(source, &mut self.buffer[within(destination)]);
        } else {
            self.ram.write(destination, &self.buffer[within(source)]);
        }
        self.command = 0;
    }
}

impl Registers for Fake {
    fn read32(&mut self, at: u32) -> u32 {
        match at {
            register::IDENTIFICATION => self.identification,
            register::LIVENESS => !self.liveness,
            register::INTERRUPT_STATUS => self.interrupt,
            register::DMA_COMMAND => {
                if self.command & u64::from(START) != 0
                    && let Some(looks) = &mut self.looks
                {
                    *looks -= 1;
                    if *looks == 0 {
                        self.looks = Some(100);
                        self.work();
                    }
                }
                self.command as u32
            }
            _ => panic!("read of {at:#x}"),
        }
    }

    fn write32(&mut self, at: u32, value: u32) {
        match at {
            register::LIVENESS => self.liveness = value,
            register::INTERRUPT_RAISE => self.interrupt |= value,
            register::INTERRUPT_ACKNOWLEDGE => self.interrupt &= !value,
            _ => panic!("32-bit write of {at:#x}"),
        }
    }

    fn write64(&mut self, at: u32, value: u64) {
        assert_eq!(self.command & u64::from(START), 0, "written while busy");
        match at {
            register::DMA_SOURCE => self.dma[0] = value,
            register::DMA_DESTINATION => self.dma[1] = value,
            register::DMA_COUNT => self.dma[2] = value,
            register::DMA_COMMAND => {
                self.command = value;
                self.started += 1;
            }
            _ => panic!("64-bit write of {at:#x}"),
        }
    }
}

#[test]
fn a_device_that_is_another_or_dead_is_not_found() {
    let mut fake = Fake::new(&Ram::new(0, 0));
    fake.identification = !0;
    assert_eq!(
        Edu::find(&mut fake, &mut Pauses(0)).err(),
        Some(Error::Unknown(!0))
    );

    struct Dead;
    impl Registers for Dead {
        fn read32(&mut self, _: u32) -> u32 {
            IDENTIFICATION
        }
        fn write32(&mut self, _: u32, _: u32) {}
        fn write64(&mut self, _: u32, _: u64) {}
    }
    assert_eq!(
        Edu::find(&mut Dead, &mut Pauses(0)).err(),
        Some(Error::NotAlive)
    );
}

#[test]
fn a_transfer_that_never_ends_times_out_and_the_next_is_refused() {
    let ram = Ram::new(0, 64);
    let mut fake = Fake::new(&ram);
    fake.looks = None;
    let mut clock = Pauses(0);
    let mut edu = Edu::find(&mut fake, &mut clock).unwrap();
    assert_eq!(
        edu.transfer(Direction::ToDevice, 0, 0, 64),
        Err(Error::TimedOut)
    );
    assert_eq!(
        edu.transfer(Direction::ToDevice, 0, 0, 64),
        Err(Error::Busy)
    );
    assert_eq!(clock.0, TRANSFER_US);
    assert_eq!(fake.started, 1);
}

#[test]
fn an_interrupt_stays_until_it_is_acknowledged() {
    let mut fake = Fake::new(&Ram::new(0, 0));
    let mut clock = Pauses(0);
    let mut edu = Edu::find(&mut fake, &mut clock).unwrap();
    edu.raise(5);
    edu.acknowledge(1);
    assert_eq!(edu.interrupt_status(), 4);
    edu.acknowledge(4);
    assert_eq!(edu.interrupt_status(), 0);
}

proptest! {
    #[test]
    fn bytes_come_back_or_the_transfer_is_not_started(
        offset in prop_oneof![0..BUFFER_BYTES + 2, any::<u32>()],
        bytes in prop_oneof![0..BUFFER_BYTES + 2, any::<u32>()],
        base in (0_u64..1 << 40).prop_map(|page| page << 12),
    ) {
        let mut ram = Ram::new(base, 2 * 4096);
        let sent: Vec<u8> = (0..4096_u32).map(|at| (at * 7) as u8).collect();
        ram.write(base, &sent);
        let mut fake = Fake::new(&ram);
        let mut clock = Pauses(0);
        let mut edu = Edu::find(&mut fake, &mut clock).unwrap();
        let there = edu.transfer(Direction::ToDevice, base, offset, bytes);
        if bytes > 0 && u64::from(offset) + u64::from(bytes) <= u64::from(BUFFER_BYTES) {
            prop_assert_eq!(there, Ok(()));
            prop_assert_eq!(edu.transfer(Direction::FromDevice, base + 4096, offset, bytes), Ok(()));
            let back = ram.take_vec(base + 4096, bytes as usize);
            prop_assert_eq!(&back[..], &sent[..bytes as usize]);
        } else {
            prop_assert_eq!(there, Err(Error::OutsideBuffer));
            prop_assert_eq!(fake.started, 0);
        }
    }
}
