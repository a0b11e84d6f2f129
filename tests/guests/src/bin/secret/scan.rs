//! Looking through all of one's own memory for somebody else's.
//!
//! What is looked for is known, so that nothing is found by chance, and may not be found in this very guest because it looks: it
//! keeps the words of the other's page disguised, and disguises what it reads to compare.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use test_guests::println;
use test_guests::random::Random;

use crate::memory::{PAGE, SECRET, read, words};

/// Words in a page.
const WORDS: usize = 512;
/// Places for disguised words: four for each, so that a search ends soon.
const PLACES: usize = 4 * WORDS;
const PLACE_BITS: u32 = PLACES.trailing_zeros();
/// Where the memory begins that nothing of this guest was ever written to.
const UNTOUCHED: u64 = 8 << 20;

static DISGUISED: [AtomicU64; PLACES] = [const { AtomicU64::new(0) }; PLACES];

/// Prints `secret: scanned <n> pages, <n> foreign words, <n> pages not zero`: words of the page that `seed` makes, anywhere
/// below `end`; and pages of memory that this guest never wrote and that hold something all the same.
pub(crate) fn all(seed: u64, end: u64) {
    prepare(seed);
    let (mut foreign, mut dirty) = (0_u64, 0_u64);
    // The first page cannot be pointed to.
    let pages = (PAGE..end).step_by(PAGE as usize);
    for page in pages.clone() {
        let mut any = 0;
        for at in words(page..page + PAGE) {
            let word = read(at);
            any |= word;
            if word != 0 && is_known(disguise(word)) {
                foreign += 1;
            }
        }
        if any != 0 && page >= UNTOUCHED && page != SECRET {
            dirty += 1;
        }
    }
    println!(
        "secret: scanned {} pages, {foreign} foreign words, {dirty} pages not zero",
        pages.count()
    );
}

fn prepare(seed: u64) {
    for place in &DISGUISED {
        place.store(0, Relaxed);
    }
    let mut random = Random::new(seed);
    for _ in 0..WORDS {
        let word = disguise(random.next_hidden());
        if let Some(place) = places(word).find(|place| place.load(Relaxed) == 0) {
            place.store(word, Relaxed);
        }
    }
}

fn is_known(word: u64) -> bool {
    places(word)
        .map(|place| place.load(Relaxed))
        .take_while(|known| *known != 0)
        .any(|known| known == word)
}

/// Where `word` is, if it is anywhere, or could be put: from the place that its upper bits name, on and round.
fn places(word: u64) -> impl Iterator<Item = &'static AtomicU64> {
    let first = (word >> (u64::BITS - PLACE_BITS)) as usize;
    DISGUISED.iter().cycle().skip(first).take(PLACES)
}

/// Another word for each word; 0 for one that no page has.
const fn disguise(word: u64) -> u64 {
    (word ^ 0x6a09_e667_f3bc_c908).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
