//! What the fake devices of the tests share: memory that knows its bounds, and a clock that runs by being read.

use std::cell::RefCell;
use std::rc::Rc;

use crate::{Clock, DmaMemory};

/// Memory of a known extent, shared between a driver and its fake device. Any access outside ends the test.
#[derive(Clone)]
pub(crate) struct Ram {
    base: u64,
    bytes: Rc<RefCell<Vec<u8>>>,
}

impl Ram {
    /// Memory full of a value that is neither zero nor a plausible descriptor.
    pub(crate) fn new(base: u64, bytes: u64) -> Self {
        let bytes = Rc::new(RefCell::new(vec![0xa5; bytes as usize]));
        Self { base, bytes }
    }

    pub(crate) fn take<const N: usize>(&mut self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.read(at, &mut bytes);
        bytes
    }

    pub(crate) fn take_vec(&mut self, at: u64, bytes: usize) -> Vec<u8> {
        let mut into = vec![0; bytes];
        self.read(at, &mut into);
        into
    }
}

impl DmaMemory for Ram {
    fn read(&mut self, at: u64, into: &mut [u8]) {
        let start = (at - self.base) as usize;
        into.copy_from_slice(&self.bytes.borrow()[start..start + into.len()]);
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        let start = (at - self.base) as usize;
        self.bytes.borrow_mut()[start..start + bytes.len()].copy_from_slice(bytes);
    }
}

/// A clock on which every pause takes a millisecond.
#[derive(Default)]
pub(crate) struct Pauses(pub(crate) u64);

impl Clock for Pauses {
    fn now_us(&mut self) -> u64 {
        self.0
    }

    fn pause(&mut self) {
        self.0 += 1000;
    }
}
