//! Devices kept busy for ever.

use test_guests::case::Case;
use test_guests::params::Params;
use test_guests::println;
use test_guests::random::{Random, SEED};
use test_guests::virtio::block::{Block, TYPE_IN};
use test_guests::virtio::net::Net;
use test_guests::virtio::queue::{BUFFER_BYTES, Descriptor, NEXT, Queue, WRITE};
use test_guests::virtio::{Device, Error, Kind};

/// A case says every so many rounds that it goes on.
const ALIVE_ROUNDS: u64 = 1 << 10;
const QUEUE_SIZE: u16 = 64;
const SECTORS: u32 = 16;

/// Reads and writes at random places, `beats=` requests or for ever. Prints `io: alive <n>` now and then.
pub(crate) fn io(case: &mut Case, params: &Params) {
    let beats = params.number("beats").unwrap_or(u64::MAX);
    let mut block = match Block::open(0, 0, None) {
        Ok(block) => block,
        Err(error) => {
            case.check(false, format_args!("{error}"));
            return;
        }
    };
    let mut random = Random::new(SEED);
    let places = block.sectors().saturating_sub(u64::from(SECTORS)).max(1);
    for beat in 1..=beats {
        let sector = random.next() % places;
        let done = block
            .read(sector, SECTORS)
            .and_then(|()| block.write(sector, SECTORS));
        case.check(done.is_ok(), format_args!("sector {sector}: {done:?}"));
        if beat.is_multiple_of(ALIVE_ROUNDS) {
            println!("io: alive {beat}");
        }
    }
}

/// Makes every entry of every queue available at once, again and again, whether the device gave the last ones back or
/// not. Prints `exhaust: alive <n>` now and then.
pub(crate) fn exhaust(case: &mut Case, _: &Params) {
    let outcome = fill_queues();
    case.check(outcome.is_ok(), format_args!("{outcome:?}"));
}

fn fill_queues() -> Result<(), Error> {
    let mut block = Block::open(0, 0, None).ok();
    let mut net = Net::open(0, None).ok();
    let mut entropy = entropy().ok();
    if block.is_none() && net.is_none() && entropy.is_none() {
        return Err(Error::Absent(Kind::Block));
    }
    for round in 1_u64.. {
        if let Some(block) = &mut block {
            block.prepare(TYPE_IN, 0, SECTORS);
            exhaust_queue(&mut block.queue, |_| None);
        }
        if let Some(net) = &mut net {
            // As many frames as there are entries; nobody takes those that come in return.
            let (at, length) = (net.transmit.buffers(), 1526);
            exhaust_queue(&mut net.transmit, |_| {
                Some(Descriptor {
                    address: at,
                    length,
                    ..Descriptor::default()
                })
            });
        }
        if let Some(queue) = &mut entropy {
            let at = queue.buffers();
            let size = queue.size();
            // One chain through all entries, offered from each of them.
            exhaust_queue(queue, |index| {
                Some(Descriptor {
                    address: at,
                    length: BUFFER_BYTES as u32,
                    flags: if index + 1 == size {
                        WRITE
                    } else {
                        WRITE | NEXT
                    },
                    next: index + 1,
                })
            });
        }
        if round.is_multiple_of(ALIVE_ROUNDS) {
            println!("exhaust: alive {round}");
        }
    }
    Ok(())
}

/// Offers every descriptor of `queue`, each as `descriptor` gives it, or else the first one that often.
fn exhaust_queue(queue: &mut Queue, descriptor: impl Fn(u16) -> Option<Descriptor>) {
    for index in 0..queue.size() {
        match descriptor(index) {
            Some(descriptor) => {
                queue.describe(index, descriptor);
                queue.offer(index);
            }
            None => queue.offer(0),
        }
    }
    queue.kick();
}

fn entropy() -> Result<Queue, Error> {
    let device = Device::find(Kind::Entropy, 0)?;
    device.negotiate(0)?;
    let queue = device.queue(0, QUEUE_SIZE, None);
    device.start()?;
    Ok(queue)
}
