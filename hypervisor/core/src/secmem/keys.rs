//! The key table: which key each VM's frames are sealed under in its present life.
//!
//! A [`KeyId`] stands in the ledger's entries; the key itself is only here. A life of a VM gets a number that no life of any VM had before
//! it, and [`KeyTable::destroy`] drops the key, which wipes it. What comes to lie in a frame afterwards
//! cannot be decrypted by anybody.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use crate::ledger::{KeyId, VmId};

/// A VM's key, by the number of its life. `K` wipes itself when it is dropped.
#[derive(Debug)]
pub struct KeyTable<K> {
    /// One place a VM, in the order of their numbers.
    lives: Vec<Option<Life<K>>>,
    last: u32,
}

#[derive(Debug)]
struct Life<K> {
    id: KeyId,
    /// In a box: a key that is moved leaves a copy behind.
    key: Box<K>,
}

/// Why a VM gets no key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyError {
    /// It has one: its life before was not ended.
    Alive(VmId),
    /// There is no such VM.
    NoVm(VmId),
    /// Every number was used since the machine was booted.
    NoNumberLeft,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alive(vm) => write!(f, "{vm} has a key; destroy that first"),
            Self::NoVm(vm) => write!(f, "there is no {vm} to have a key"),
            Self::NoNumberLeft => f.write_str(
                "VMs with encryption were started 4294967295 times since the machine was; boot it anew",
            ),
        }
    }
}

impl core::error::Error for KeyError {}

impl<K> KeyTable<K> {
    /// The table of a machine with `vms` VMs, none of which has a key.
    #[must_use]
    pub fn new(vms: usize) -> Self {
        Self {
            lives: core::iter::repeat_with(|| None).take(vms).collect(),
            last: 0,
        }
    }

    /// Begins a life of `vm` with the key that `make` gives for its number.
    ///
    /// # Errors
    /// [`KeyError`], or what `make` fails with; then the VM has no key.
    pub fn create<E: From<KeyError>>(
        &mut self,
        vm: VmId,
        make: impl FnOnce(KeyId) -> Result<Box<K>, E>,
    ) -> Result<KeyId, E> {
        let place = self.lives.get_mut(usize::from(vm.0));
        let place = place.ok_or(KeyError::NoVm(vm))?;
        if place.is_some() {
            return Err(KeyError::Alive(vm).into());
        }
        // Counted before the key is made: a number whose key failed is not used again either.
        self.last = self.last.checked_add(1).ok_or(KeyError::NoNumberLeft)?;
        let id = KeyId(self.last);
        *place = Some(Life { id, key: make(id)? });
        Ok(id)
    }

    /// The key of `vm`, if it is alive, and its number.
    #[must_use]
    pub fn get(&self, vm: VmId) -> Option<(KeyId, &K)> {
        let life = self.lives.get(usize::from(vm.0))?.as_ref()?;
        Some((life.id, &life.key))
    }

    /// Ends the life of `vm`: its key is wiped. False where it had none.
    pub fn destroy(&mut self, vm: VmId) -> bool {
        let place = self.lives.get_mut(usize::from(vm.0));
        place.and_then(Option::take).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    struct Wiped<'a>(u32, &'a Cell<u32>);

    impl Drop for Wiped<'_> {
        fn drop(&mut self) {
            self.1.set(self.1.get() | 1 << self.0);
        }
    }

    #[test]
    fn a_number_is_never_used_twice() {
        let mut table = KeyTable::new(2);
        let mut seen = Vec::new();
        for round in 0..100 {
            let vm = VmId(round % 2);
            let id = table
                .create::<KeyError>(vm, |id| Ok(Box::new(id.0)))
                .unwrap();
            assert!(!seen.contains(&id) && id != KeyId(0));
            assert_eq!(table.get(vm), Some((id, &id.0)));
            seen.push(id);
            assert!(table.destroy(vm));
            assert!(!table.destroy(vm));
            assert_eq!(table.get(vm), None);
        }
    }

    #[test]
    fn a_life_that_could_not_begin_uses_its_number_up() {
        let mut table = KeyTable::<u8>::new(1);
        assert_eq!(
            table.create(VmId(0), |_| Err(KeyError::NoNumberLeft)),
            Err(KeyError::NoNumberLeft)
        );
        assert_eq!(table.get(VmId(0)), None);
        let id = table.create::<KeyError>(VmId(0), |_| Ok(Box::new(1)));
        assert_eq!(id, Ok(KeyId(2)));
    }

    #[test]
    fn the_last_number_is_not_passed() {
        let mut table = KeyTable::<u8>::new(1);
        table.last = u32::MAX - 1;
        assert_eq!(
            table.create::<KeyError>(VmId(0), |_| Ok(Box::new(1))),
            Ok(KeyId(u32::MAX))
        );
        table.destroy(VmId(0));
        let refused = table.create::<KeyError>(VmId(0), |_| Ok(Box::new(1)));
        assert_eq!(refused, Err(KeyError::NoNumberLeft));
    }

    #[test]
    fn a_destroyed_key_is_dropped_at_once_and_no_other() {
        let wiped = Cell::new(0);
        let mut table = KeyTable::new(2);
        for vm in 0..2 {
            let key = || Ok::<_, KeyError>(Box::new(Wiped(vm, &wiped)));
            table.create(VmId(vm as u16), |_| key()).unwrap();
            let again = table.create(VmId(vm as u16), |_| key());
            assert_eq!(again, Err(KeyError::Alive(VmId(vm as u16))));
        }
        wiped.set(0);
        table.destroy(VmId(1));
        assert_eq!(wiped.get(), 0b10);
        assert_eq!(
            table.create(VmId(2), |_| Ok(Box::new(Wiped(2, &wiped)))),
            Err(KeyError::NoVm(VmId(2)))
        );
    }
}
