//! The key table: which key each VM's frames are sealed under in its present life.
//!
//! A life of a VM begins with a number that no life of any VM had before it, from [`KeyNumbers`]. The number stands in the ledger's
//! entries; the key itself lies in the VM's entry of the table, its [`Life`], beside the VM's memory and behind the same lock, so that
//! VMs do not wait for one another. Dropping the `Life` wipes the key. What is still sealed then cannot be decrypted by anybody.

use alloc::boxed::Box;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::ledger::KeyId;

/// The numbers of keys.
#[derive(Debug, Default)]
pub struct KeyNumbers(AtomicU32);

/// Every number was used since the machine was booted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoNumberLeft;

impl fmt::Display for NoNumberLeft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "VMs with encryption were started 4294967295 times since the machine was; boot it anew",
        )
    }
}

impl core::error::Error for NoNumberLeft {}

impl KeyNumbers {
    /// None was used.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// A number that was not given before, whatever becomes of it.
    ///
    /// # Errors
    /// [`NoNumberLeft`].
    pub fn next(&self) -> Result<KeyId, NoNumberLeft> {
        let order = Ordering::Relaxed;
        let before = self
            .0
            .fetch_update(order, order, |last| last.checked_add(1));
        // 0 is no key.
        before.map(|last| KeyId(last + 1)).map_err(|_| NoNumberLeft)
    }
}

/// A VM's entry of the table: its key, and the number of its life. `K` wipes itself when it is dropped.
#[derive(Debug)]
pub struct Life<K> {
    id: KeyId,
    /// In a box: a key that is moved leaves a copy behind.
    key: Box<K>,
}

impl<K> Life<K> {
    /// Begins a life with `key`.
    #[must_use]
    pub const fn new(id: KeyId, key: Box<K>) -> Self {
        Self { id, key }
    }

    /// Its number.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// Its key.
    #[must_use]
    pub const fn key(&self) -> &K {
        &self.key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;
    use std::collections::BTreeSet;

    #[test]
    fn no_number_is_given_twice_whoever_asks() {
        let numbers = KeyNumbers::new();
        let given = std::thread::scope(|scope| {
            let ask = || {
                (0..1000)
                    .map(|_| numbers.next().unwrap())
                    .collect::<Vec<_>>()
            };
            let asked = [scope.spawn(ask), scope.spawn(ask)];
            asked.map(|thread| thread.join().unwrap()).concat()
        });
        let different: BTreeSet<_> = given.iter().copied().collect();
        assert_eq!((given.len(), different.len()), (2000, 2000));
        assert!(!different.contains(&KeyId(0)));
    }

    #[test]
    fn the_last_number_is_not_passed() {
        let numbers = KeyNumbers(AtomicU32::new(u32::MAX - 1));
        assert_eq!(numbers.next(), Ok(KeyId(u32::MAX)));
        assert_eq!(numbers.next(), Err(NoNumberLeft));
        assert_eq!(numbers.next(), Err(NoNumberLeft));
    }

    #[test]
    fn the_end_of_a_life_wipes_its_key() {
        struct Wiped<'a>(&'a Cell<bool>);
        impl Drop for Wiped<'_> {
            fn drop(&mut self) {
                self.0.set(true);
            }
        }
        let wiped = Cell::new(false);
        let life = Life::new(KeyId(1), Box::new(Wiped(&wiped)));
        let moved = life;
        assert!(!wiped.get());
        drop(moved);
        assert!(wiped.get());
    }
}
