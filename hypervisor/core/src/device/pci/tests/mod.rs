//! Tests of the bus, with a model of the guest's driver: configuration space, MSI-X, the virtio transport, the devices
//! that live here, and a million accesses that nobody arranged.

mod device;
mod driver;
mod fuzz;
mod interrupts;
mod space;
mod transport;

use super::*;
use crate::device::virtio::blk::{Block, Disk, DiskError};
use crate::device::virtio::net::Nic;
use crate::device::virtio::rng::Rng;
use crate::manifest::MacAddress;
use driver::{Driver, Guest};

/// A console, which has two queues.
fn console() -> Model {
    Model::Console(Box::default())
}

/// An entropy source that counts.
fn counting_rng() -> Model {
    let mut next = 0_u8;
    Model::Entropy(Rng::new(Box::new(move |bytes| {
        for byte in bytes {
            next = next.wrapping_add(1);
            *byte = next;
        }
        true
    })))
}

/// A console as device 1 and an entropy source as device 2.
fn guest() -> Guest {
    Guest::new(vec![console(), counting_rng()])
}

const CONSOLE: u8 = 1;
const RNG: u8 = 2;
const NET: u8 = 3;
const DISK: u8 = 4;

/// A disk of 16 sectors in memory.
struct Memory([u8; 0x2000]);

impl Disk for Memory {
    fn sectors(&self) -> u64 {
        16
    }

    fn read(&mut self, sector: u64, bytes: &mut [u8]) -> Result<(), DiskError> {
        bytes.copy_from_slice(&self.0[sector as usize * 512..][..bytes.len()]);
        Ok(())
    }

    fn write(&mut self, sector: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.0[sector as usize * 512..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        Ok(())
    }

    fn read_only(&self) -> bool {
        false
    }
}

fn nic(last: u8) -> Model {
    let address = format!("52:00:00:00:00:{last:02x}");
    Model::Net(Nic::new(MacAddress::parse(&address).unwrap()))
}

/// One device of each kind.
fn full_guest() -> Guest {
    let disk = Block::new(Box::new(Memory([0; 0x2000])), "disk");
    let block = Model::Block(Box::new(disk));
    Guest::new(vec![console(), counting_rng(), nic(1), block])
}
