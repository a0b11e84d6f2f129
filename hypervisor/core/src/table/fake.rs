//! Table memory for tests: a map of tables, with a budget and a log of every write.

use std::collections::BTreeMap;

use crate::addr::Frame;

use super::{ENTRIES, Invalidate, TableMemory};

/// Tables by frame number.
pub(crate) type Tables = BTreeMap<u64, [u64; ENTRIES]>;

#[derive(Default)]
pub(crate) struct FakeMemory {
    pub(crate) tables: Tables,
    /// Frames that `alloc` may still give.
    pub(crate) budget: usize,
    /// Every write since the test last took the log.
    pub(crate) log: Vec<(Frame, usize, u64)>,
    next: u64,
    reusable: Vec<Frame>,
}

impl FakeMemory {
    pub(crate) fn new(budget: usize) -> Self {
        // Far from the frames that tests map.
        Self {
            budget,
            next: 1 << 30,
            ..Self::default()
        }
    }
}

impl TableMemory for FakeMemory {
    fn read(&self, table: Frame, index: usize) -> u64 {
        self.tables[&table.0][index]
    }

    fn write(&mut self, table: Frame, index: usize, entry: u64) {
        self.tables
            .get_mut(&table.0)
            .expect("write to a freed table")[index] = entry;
        self.log.push((table, index, entry));
    }

    fn alloc(&mut self) -> Option<Frame> {
        self.budget = self.budget.checked_sub(1)?;
        let frame = self.reusable.pop().unwrap_or_else(|| {
            self.next += 1;
            Frame(self.next)
        });
        assert!(
            self.tables.insert(frame.0, [0; ENTRIES]).is_none(),
            "table allocated twice"
        );
        Some(frame)
    }

    fn free(&mut self, table: Frame) {
        self.tables.remove(&table.0).expect("table freed twice");
        self.reusable.push(table);
        self.budget += 1;
    }
}

/// A TLB that only counts its flushes.
#[derive(Default)]
pub(crate) struct FakeTlb {
    pub(crate) flushes: usize,
}

impl Invalidate for FakeTlb {
    fn invalidate(&mut self, _root: Frame) {
        self.flushes += 1;
    }
}
