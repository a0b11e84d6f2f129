//! The entropy source and the console.

use test_guests::case::Case;
use test_guests::cpu;
use test_guests::params::Params;
use test_guests::virtio::queue::{Descriptor, WRITE, read, write};
use test_guests::virtio::{Device, Error, Kind};

const QUEUE_SIZE: u16 = 16;
const RANDOM_WORDS: u64 = 8;
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const LINE_BYTES: u64 = 256;
const GREETING: &[u8] = b"virtio console: type a line, an empty one ends\n";

/// Two requests for random bytes give different ones.
pub(crate) fn entropy(case: &mut Case, _: &Params) {
    let bytes = ask_twice();
    case.check(
        bytes.is_ok_and(|(first, second)| first != second && first != [0; 8] && second != [0; 8]),
        format_args!("random bytes: {bytes:x?}"),
    );
}

type Random = [u64; RANDOM_WORDS as usize];

fn ask_twice() -> Result<(Random, Random), Error> {
    let device = Device::find(Kind::Entropy, 0)?;
    device.negotiate(0)?;
    let mut queue = device.queue(0, QUEUE_SIZE, None);
    device.start()?;
    let mut ask = || {
        let length = RANDOM_WORDS as u32 * 8;
        queue.describe(
            0,
            Descriptor {
                address: queue.buffers(),
                length,
                flags: WRITE,
                next: 0,
            },
        );
        queue.offer(0);
        queue.kick();
        match queue.wait() {
            Some((0, written)) if written == length => Ok(read::<Random>(queue.buffers())),
            _ => Err(Error::NoAnswer),
        }
    };
    Ok((ask()?, ask()?))
}

/// Greets on the virtio console and sends what is typed back, until an empty line or Ctrl-D.
pub(crate) fn console(case: &mut Case, _: &Params) {
    let outcome = echo();
    case.check(outcome.is_ok(), format_args!("console: {outcome:?}"));
}

fn echo() -> Result<(), Error> {
    let device = Device::find(Kind::Console, 0)?;
    device.negotiate(0)?;
    let mut receive = device.queue(RECEIVE, QUEUE_SIZE, None);
    let mut transmit = device.queue(TRANSMIT, QUEUE_SIZE, None);
    device.start()?;
    let mut say = |bytes: &[u8]| {
        for (place, byte) in (transmit.buffers()..).zip(bytes) {
            write(place, *byte);
        }
        transmit.describe(
            0,
            Descriptor {
                address: transmit.buffers(),
                length: bytes.len() as u32,
                flags: 0,
                next: 0,
            },
        );
        transmit.offer(0);
        transmit.kick();
        transmit.wait().map(|_| ()).ok_or(Error::NoAnswer)
    };
    say(GREETING)?;
    receive.describe(
        0,
        Descriptor {
            address: receive.buffers(),
            length: LINE_BYTES as u32,
            flags: WRITE,
            next: 0,
        },
    );
    let mut line_is_empty = true;
    loop {
        receive.offer(0);
        receive.kick();
        let length = loop {
            if let Some((_, length)) = receive.take() {
                break length;
            }
            cpu::pause();
        };
        for at in 0..u64::from(length).min(LINE_BYTES) {
            let byte: u8 = read(receive.buffers() + at);
            say(&[byte])?;
            match byte {
                b'\r' | b'\n' if line_is_empty => return Ok(()),
                4 => return Ok(()),
                b'\r' | b'\n' => line_is_empty = true,
                _ => line_is_empty = false,
            }
        }
    }
}
