//! A block device: what is on it, and what is written to it.
//!
//! The image that a test gives holds its own addresses: the nth eight bytes hold n, the least significant byte first.

use test_guests::case::Case;
use test_guests::params::Params;
use test_guests::virtio::Error;
use test_guests::virtio::block::{Block, FEATURE_READ_ONLY, SECTOR};
use test_guests::virtio::queue::{read, write};
use test_guests::{cpu, println, trap};

const VECTOR: u8 = 0x90;
/// Sectors of a request, and how many requests the device's sectors are looked at with.
const SECTORS: u32 = 8;
const REQUESTS: u64 = 16;
const WORDS: u64 = SECTORS as u64 * SECTOR / 8;
/// What is written has these bits changed.
const CHANGE: u64 = 0x5a5a_5a5a_0000_0000;

/// Reads, changes and reads back; each request interrupts once. Prints `block: <n> sectors, <n> requests, <n> interrupts`.
pub(crate) fn pattern(case: &mut Case, _: &Params) {
    let Some(mut block) = open(case) else { return };
    let sectors = block.sectors();
    let before = trap::count(VECTOR);
    let mut requests = 0;
    cpu::enable_interrupts();
    let step = (sectors / REQUESTS).max(u64::from(SECTORS));
    for sector in (0..sectors - sectors % step).step_by(step as usize) {
        let found = block.read(sector, SECTORS);
        holds(case, "as given", &block, found, sector, 0);
        fill(&block, sector, CHANGE);
        let written = block.write(sector, SECTORS);
        case.check(
            written.is_ok(),
            format_args!("write to sector {sector}: {written:?}"),
        );
        fill(&block, 0, 0);
        let found = block.read(sector, SECTORS);
        holds(case, "as written", &block, found, sector, CHANGE);
        requests += 3;
    }
    let flushed = block.flush();
    case.check(flushed.is_ok(), format_args!("flush: {flushed:?}"));
    requests += 1;
    // The last of them reaches the end; one further on is refused, and the device goes on.
    let last = sectors - u64::from(SECTORS);
    let end = block.read(last, SECTORS);
    case.check(end.is_ok(), format_args!("last sectors: {end:?}"));
    for sector in [last + 1, sectors, u64::MAX / SECTOR, u64::MAX] {
        let beyond = block.read(sector, SECTORS);
        case.check(
            matches!(beyond, Err(Error::Refused(_))),
            format_args!("sector {sector}: {beyond:?}"),
        );
    }
    let unknown = block.request(0x1234, 0, 1);
    case.check(
        matches!(unknown, Err(Error::Refused(_))),
        format_args!("unknown request: {unknown:?}"),
    );
    requests += 6;
    cpu::disable_interrupts();
    let interrupts = trap::count(VECTOR) - before;
    println!("block: {sectors} sectors, {requests} requests, {interrupts} interrupts");
    case.check(
        interrupts == requests,
        format_args!("{interrupts} interrupts for {requests} requests"),
    );
}

/// A disk that cannot be written says so, refuses to be, and keeps what it has.
pub(crate) fn read_only(case: &mut Case, _: &Params) {
    let Some(mut block) = open(case) else { return };
    case.check(
        block.features & FEATURE_READ_ONLY != 0,
        format_args!("it does not say that it is read-only"),
    );
    fill(&block, 0, CHANGE);
    let written = block.write(0, SECTORS);
    case.check(
        matches!(written, Err(Error::Refused(_))),
        format_args!("write: {written:?}"),
    );
    let found = block.read(0, SECTORS);
    holds(case, "after the write", &block, found, 0, 0);
}

fn open(case: &mut Case) -> Option<Block> {
    match Block::open(0, 0, Some(VECTOR)) {
        Ok(block) => Some(block),
        Err(error) => {
            case.check(false, format_args!("{error}"));
            None
        }
    }
}

/// Checks what was read from `sector` on.
fn holds(
    case: &mut Case,
    what: &str,
    block: &Block,
    outcome: Result<(), Error>,
    sector: u64,
    change: u64,
) {
    let wrong = (0..WORDS).find(|&word| {
        read::<u64>(block.data() + word * 8) != (sector * SECTOR / 8 + word) ^ change
    });
    case.check(
        outcome.is_ok() && wrong.is_none(),
        format_args!("{what}: sector {sector}: {outcome:?}, word {wrong:?} is wrong"),
    );
}

fn fill(block: &Block, sector: u64, change: u64) {
    for word in 0..WORDS {
        write(
            block.data() + word * 8,
            (sector * SECTOR / 8 + word) ^ change,
        );
    }
}
