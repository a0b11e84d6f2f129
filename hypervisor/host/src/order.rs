//! Sorting short lists in little code.
//!
//! The library's sorts are made for long lists; each element type costs several kilobytes of an image that has to stay
//! small. What is sorted at boot has a few dozen elements, mostly in order already.

/// Sorts by insertion: equal elements keep their order. For n elements up to n²/2 comparisons.
pub fn sort_by_key<T, K: Ord>(items: &mut [T], key: impl Fn(&T) -> K) {
    for end in 1..items.len() {
        for at in (0..end).rev() {
            let in_order = match items.get(at..=at + 1) {
                Some([one, next]) => key(one) <= key(next),
                _ => true,
            };
            if in_order {
                break;
            }
            items.swap(at, at + 1);
        }
    }
}

/// The same by the elements themselves.
pub fn sort<T: Ord + Copy>(items: &mut [T]) {
    sort_by_key(items, |item| *item);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lists_are_sorted_as_the_library_does(mut items: Vec<(u8, u16)>) {
            let mut expected = items.clone();
            expected.sort_by_key(|(key, _)| *key);
            sort_by_key(&mut items, |(key, _)| *key);
            prop_assert_eq!(&items, &expected);
            expected.sort();
            sort(&mut items);
            prop_assert_eq!(items, expected);
        }
    }
}
