//! "Did you mean": the nearest of the words that would have been right.

use alloc::vec;
use alloc::vec::Vec;

/// Words longer than this are not compared: nothing the schema knows is half as long.
const MAX_WORD: usize = 48;

/// The candidate that `word` is most likely a slip of, if any is near enough to be worth saying.
#[must_use]
pub fn nearest<'c>(word: &str, candidates: &mut dyn Iterator<Item = &'c str>) -> Option<&'c str> {
    let word = folded(word);
    if word.is_empty() || word.len() > MAX_WORD {
        return None;
    }
    candidates
        .filter_map(|candidate| {
            let letters = folded(candidate);
            // An abbreviation of three letters or more counts as one slip.
            let abbreviates = word.len() >= 3 && letters.starts_with(&word);
            let slips = if abbreviates {
                1
            } else {
                distance(&word, &letters)
            };
            let allowed = (word.len().max(letters.len()) / 3).max(1);
            (slips <= allowed && slips < letters.len()).then_some((slips, candidate))
        })
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, candidate)| candidate)
}

fn folded(word: &str) -> Vec<char> {
    word.chars().take(MAX_WORD + 1).map(fold).collect()
}

/// Case and the choice of `-` or `_` are not worth a slip.
fn fold(letter: char) -> char {
    match letter {
        '_' | ' ' => '-',
        other => other.to_ascii_lowercase(),
    }
}

/// The optimal string alignment distance: insertions, deletions, substitutions, swaps of neighbours.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut previous_a = None;
    for (row, letter_a) in a.iter().enumerate() {
        let mut current = vec![row + 1];
        let mut previous_b = None;
        for (column, letter_b) in b.iter().enumerate() {
            let at =
                |line: &[usize], index: usize| line.get(index).copied().unwrap_or(usize::MAX / 2);
            let substituted = at(&last, column) + usize::from(letter_a != letter_b);
            let mut best = substituted
                .min(at(&last, column + 1) + 1)
                .min(at(&current, column) + 1);
            if previous_a == Some(letter_b) && previous_b == Some(letter_a) && column > 0 {
                best = best.min(at(&before_last, column - 1) + 1);
            }
            current.push(best);
            previous_b = Some(letter_b);
        }
        before_last = core::mem::replace(&mut last, current);
        previous_a = Some(letter_a);
    }
    last.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 5] = ["name", "kernel", "memory", "cmdline", "vcpus"];

    fn nearest_key(word: &str) -> Option<&'static str> {
        nearest(word, &mut KEYS.into_iter())
    }

    #[test]
    fn one_slip_of_each_kind_is_recognised() {
        assert_eq!(nearest_key("kernal"), Some("kernel"));
        assert_eq!(nearest_key("kernl"), Some("kernel"));
        assert_eq!(nearest_key("kerrnel"), Some("kernel"));
        assert_eq!(nearest_key("kenrel"), Some("kernel"));
    }

    #[test]
    fn case_separators_and_abbreviations_are_forgiven() {
        assert_eq!(nearest_key("Memory"), Some("memory"));
        assert_eq!(nearest_key("cmd_line"), Some("cmdline"));
        assert_eq!(nearest_key("mem"), Some("memory"));
    }

    #[test]
    fn a_stranger_gets_no_suggestion() {
        assert_eq!(nearest_key("colour"), None);
        assert_eq!(nearest_key(""), None);
        assert_eq!(nearest_key(&"k".repeat(1000)), None);
    }
}
