//! A million accesses that nobody arranged, to every register and port of the bus: none may panic, and a device that
//! is set up properly afterwards works.

use super::driver::STATUS;
use super::*;
use crate::testing::Random;

const DEVICES: [u8; 4] = [CONSOLE, RNG, NET, DISK];
const ACCESSES: u32 = 1_000_000;

fn value(random: &mut Random) -> u64 {
    match random.below(6) {
        0 => random.next(),
        1 => u64::MAX,
        2 => 1 << random.below(64),
        3 => 0xfee0_0000 | random.below(0x2_0000),
        4 => random.below(0x40_0000) & !15,
        _ => random.below(0x100),
    }
}

/// An address of the bus: mostly of registers that exist.
fn address(random: &mut Random, drivers: &[Driver]) -> u64 {
    let driver = &drivers[random.below(drivers.len() as u64) as usize];
    match random.below(8) {
        0 => ECAM_BASE.0 + random.below(ECAM_SIZE),
        1 => Guest::config_address(driver.device, random.below(0xb0) as u16).0,
        2 => PCI_MMIO_BASE.0 + random.below(PCI_MMIO_SIZE),
        3 => driver.vectors + random.below(0x50),
        4 => driver.own + random.below(0x110),
        5 => driver.common + random.below(0x8000),
        _ => driver.common + random.below(0x40),
    }
}

fn port(random: &mut Random, drivers: &[Driver]) -> u16 {
    let driver = &drivers[random.below(drivers.len() as u64) as usize];
    match random.below(4) {
        0 => 0xcf8 + random.below(8) as u16,
        1 => PCI_IO_BASE + random.below(PCI_IO_PORTS.into()) as u16,
        _ => driver.notify + random.below(16) as u16,
    }
}

#[test]
fn a_million_random_accesses_never_panic() {
    let mut random = Random(0x0000_ddb1_750f_b175);
    let mut guest = full_guest();
    let mut drivers: Vec<Driver> = DEVICES
        .map(|device| Driver::start(&mut guest, device))
        .into();
    let mut served = 0_u32;
    let (mut out, mut frame) = ([0; 256], [0; 1600]);
    for _ in 0..ACCESSES {
        let size = random.of(&[1, 2, 4, 8]);
        let value = value(&mut random);
        match random.below(8) {
            0 | 1 => {
                let _ = guest.bus.read(Gpa(address(&mut random, &drivers)), size);
            }
            2..=4 => {
                let gpa = Gpa(address(&mut random, &drivers));
                // Most drivers do not reset their device at every second access.
                if gpa.0 & 0xfff != STATUS || random.one_in(16) {
                    let _ = guest.bus.write(gpa, size, value, &mut guest.machine);
                }
            }
            5 => {
                let port = port(&mut random, &drivers);
                let _ = guest.bus.read_port(port, size.min(4));
            }
            _ => {
                let port = port(&mut random, &drivers);
                let outcome =
                    guest
                        .bus
                        .write_port(port, size.min(4), value as u32, &mut guest.machine);
                served += u32::from(outcome != Outcome::Nothing);
                let _ = guest.bus.transmit(0, &mut frame, &mut guest.machine);
                guest.bus.transmit_done(0, &mut guest.machine);
                let _ = guest.bus.receive(0, &frame[..60], &mut guest.machine);
                let _ = guest.bus.take_output(&mut out, &mut guest.machine);
                let _ = guest.bus.push_input(&out[..4], &mut guest.machine);
            }
        }
        if random.one_in(400) {
            guest = Guest {
                machine: guest.machine,
                ..full_guest()
            };
            guest.machine.signals.clear();
            drivers = DEVICES
                .map(|device| Driver::start(&mut guest, device))
                .into();
            for driver in &mut drivers {
                let last = driver.rings.len() - 1;
                driver.send(&mut guest, 0, &[], &[1600]);
                driver.send(&mut guest, last, &[&[0; 16], b"said"], &[512, 1]);
            }
        }
    }
    assert!(served > 100, "{served}");
    for device in DEVICES {
        guest.set_config(device, 0x10, 4, 0xe101_0000 + 0x8000 * u32::from(device));
        guest.set_config(device, 0x14, 4, 0xc100 + 0x10 * u32::from(device));
        guest.set_config(device, 4, 2, 7);
        guest.machine.signals.clear();
        let mut driver = Driver::start(&mut guest, device);
        let queue = driver.rings.len() - 1;
        driver.send(&mut guest, queue, &[&[0; 16]], &[512, 1]);
        if let Outcome::Transmit(nic) = driver.kick(&mut guest, queue as u16) {
            assert_eq!(
                guest.bus.transmit(nic, &mut frame, &mut guest.machine),
                Transmission::Frame(4)
            );
        }
        assert!(driver.used(&guest, queue).is_some());
    }
}
