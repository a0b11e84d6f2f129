//! The secret page, and the memory around it that is worked over.

use core::ops::Range;

use test_guests::println;
use test_guests::random::Random;

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;
/// Where the secret page is: far from the guest's image, which is in use all the time.
pub(crate) const SECRET: u64 = 16 << 20;
/// Where the memory begins that is swept.
const SWEPT: u64 = 24 << 20;
/// What is told of differences, at most.
const MAX_DETAILS: u64 = 8;

/// The secret page as it was written last.
pub(crate) struct Secret {
    seed: u64,
}

impl Secret {
    /// Fills the page from `seed`. Its words are nowhere but there: not even the generator's state shows them.
    pub(crate) fn write(seed: u64) -> Self {
        let mut random = Random::new(seed);
        for at in words(SECRET..SECRET + PAGE) {
            write(at, random.next_hidden());
        }
        Self { seed }
    }

    /// Whether the page is what it was written as; says where it is not.
    pub(crate) fn is_intact(&self) -> bool {
        let mut random = Random::new(self.seed);
        differences(words(SECRET..SECRET + PAGE), |_| random.next_hidden()) == 0
    }
}

/// Memory that has one word of each page in use.
pub(crate) struct Sweep {
    pages: Range<u64>,
    round: u64,
}

impl Sweep {
    /// The memory up to `end`.
    pub(crate) const fn of(end: u64) -> Self {
        Self {
            pages: SWEPT..end,
            round: 0,
        }
    }

    /// Looks at each page, and writes what is looked for the next time; returns how many pages there are.
    pub(crate) fn again(&mut self) -> u64 {
        let mut pages = 0;
        let (before, after) = (self.round, self.round + 1);
        for at in self.places() {
            if read(at) != mark(before, at) {
                println!("secret: {at:#x} holds {:#x} in round {before}", read(at));
            }
            write(at, mark(after, at));
            pages += 1;
        }
        self.round = after;
        pages
    }

    /// Whether every page holds what was written last; says where not.
    pub(crate) fn is_intact(&self) -> bool {
        differences(self.places(), |at| mark(self.round, at)) == 0
    }

    /// A word of each page, not the same one in all of them.
    fn places(&self) -> impl Iterator<Item = u64> + use<> {
        self.pages
            .clone()
            .step_by(PAGE as usize)
            .map(|page| page + (page / PAGE % (PAGE / 8)) * 8)
    }
}

/// What a page's word holds in a round: nothing before the first.
const fn mark(round: u64, at: u64) -> u64 {
    at.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_mul(round)
}

/// How many words at `places` are not as `expected`.
fn differences(places: impl Iterator<Item = u64>, mut expected: impl FnMut(u64) -> u64) -> u64 {
    let mut count = 0;
    for at in places {
        let (found, expected) = (read(at), expected(at));
        if found != expected {
            count += 1;
            if count <= MAX_DETAILS {
                println!("secret: {at:#x} holds {found:#x}, not {expected:#x}");
            }
        }
    }
    count
}

/// The addresses of the words in `range`.
pub(crate) fn words(range: Range<u64>) -> impl Iterator<Item = u64> {
    range.step_by(8)
}

/// Reads the word at `address`.
pub(crate) fn read(address: u64) -> u64 {
    // SAFETY: RAM of this guest, or where it may have none: then it is stopped. Nothing is changed.
    unsafe { (address as *const u64).read_volatile() }
}

fn write(address: u64, word: u64) {
    // SAFETY: RAM behind the image that nothing else of this guest uses.
    unsafe { (address as *mut u64).write_volatile(word) };
}
