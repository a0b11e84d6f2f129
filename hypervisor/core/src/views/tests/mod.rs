//! Views of a VM whose memory is maps, and whose processor is [`hardware`].

mod cases;
mod cost;
mod hardware;
mod lists;
mod model;
mod properties;
mod watch;

use std::collections::BTreeSet;

use crate::addr::{FRAME_SIZE, Frame, FrameCount, Gpa};
use crate::ept::{Ept, EptAttr, EptCaps, EptFeatures, EptPerms};
use crate::ledger::{
    Entry, FrameRun, Ledger, MapRight, MemoryKind, MemoryRange, Owner, Request, Rights, Scrub, VmId,
};
use crate::mtrr::MemoryType;
use crate::table::fake::{FakeMemory, FakeTlb};
use crate::table::{Flushed, PageSize};

use super::{ViewId, Views, Withdrawn};

pub(crate) const VM: VmId = VmId(1);
const X: EptPerms = EptPerms::EXECUTE;
const XU: EptPerms = EptPerms::USER_EXECUTE;
const R: EptPerms = EptPerms::READ;
const RW: EptPerms = R.union(EptPerms::WRITE);
const ALL: EptPerms = EptPerms::all();

const fn attr(perms: EptPerms) -> EptAttr {
    EptAttr::new(perms, MemoryType::WriteBack)
}

fn gpa(page: u64) -> Gpa {
    Gpa(page * FRAME_SIZE)
}

fn caps() -> EptCaps {
    EptCaps::negotiate(EptFeatures::all().bits())
        .unwrap()
        .with_mode_based_execute()
}

struct NoScrub;

impl Scrub for NoScrub {
    fn scrub(&mut self, right: MapRight) -> MapRight {
        right
    }
}

/// A machine with one VM, which has frames in one piece from a border of 2 MiB on.
pub(crate) struct Machine<'a> {
    pub(crate) ledger: Ledger<'a>,
    pub(crate) memory: FakeMemory,
    pub(crate) views: Views,
    pub(crate) frames: FrameRun,
}

impl<'a> Machine<'a> {
    pub(crate) fn new(
        entries: &'a mut Vec<Entry>,
        frames: u64,
        align: PageSize,
        caps: EptCaps,
    ) -> Self {
        let count = (frames + 2 * align.frames().0).max(1024);
        entries.resize(count as usize, Entry::ABSENT);
        let all = FrameRun::new(Frame(0), FrameCount(count));
        let usable = MemoryRange {
            run: all,
            kind: MemoryKind::Usable,
        };
        let mut ledger = Ledger::new(entries, [usable].into_iter());
        let request = Request {
            align,
            ..Request::anywhere(FrameCount(frames))
        };
        let frames = ledger.alloc_run(Owner::Vm(VM), request).unwrap();
        ledger.scrub(frames, &mut NoScrub).unwrap();
        let mut memory = FakeMemory::new(100_000);
        let views = Views::new(Ept::new(VM, caps, &mut memory).unwrap());
        Self {
            ledger,
            memory,
            views,
            frames,
        }
    }

    /// The VM's right to `count` of its frames.
    fn right(&mut self, frame: u64, count: u64) -> MapRight {
        let run = FrameRun::new(Frame(self.frames.first.0 + frame), FrameCount(count));
        self.ledger.grant(VM, run, Rights::all()).unwrap()
    }

    pub(crate) fn map(&mut self, page: u64, frame: u64, count: u64, perms: EptPerms) {
        let right = self.right(frame, count);
        let at = gpa(page);
        self.views
            .map(&mut self.memory, at, right, attr(perms))
            .unwrap();
    }

    fn flush(&mut self) -> Flushed {
        self.views.flush(&mut FakeTlb::default())
    }

    /// Flushes, and gives back what a view gave up.
    fn settle(&mut self, withdrawn: Withdrawn) -> usize {
        let proof = self.flush();
        let rights = withdrawn.flushed(&proof, &mut self.memory).unwrap();
        let count = rights.len();
        rights
            .into_iter()
            .for_each(|right| self.ledger.surrender(right));
        count
    }

    /// Unmaps all of a range, and says how many frames came out.
    pub(crate) fn unmap(&mut self, page: u64, count: u64) -> u64 {
        let mut frames = 0;
        while let Some(stale) = self
            .views
            .unmap_run(&mut self.memory, gpa(page), FrameCount(count))
            .unwrap()
        {
            let proof = self.flush();
            let (_, right) = stale.flushed(&proof, &mut self.memory).unwrap();
            frames += right.run().count.0;
            self.ledger.surrender(right);
        }
        frames
    }

    fn add(&mut self, default: EptPerms) -> ViewId {
        self.views.add(&mut self.memory, default).unwrap()
    }

    fn limit(&mut self, view: ViewId, page: u64, count: u64, perms: EptPerms) {
        let (at, count) = (gpa(page), FrameCount(count));
        let withdrawn = self.views.limit(&mut self.memory, view, at, count, perms);
        self.settle(withdrawn.unwrap());
    }

    fn remap(&mut self, view: ViewId, page: u64, frame: u64, count: u64, perms: EptPerms) {
        let right = self.right(frame, count);
        let withdrawn = self
            .views
            .remap(&mut self.memory, view, gpa(page), right, attr(perms));
        self.settle(withdrawn.unwrap());
    }

    fn reset(&mut self, view: ViewId, page: u64, count: u64) -> usize {
        let (at, count) = (gpa(page), FrameCount(count));
        let withdrawn = self.views.reset(&mut self.memory, view, at, count);
        self.settle(withdrawn.unwrap())
    }

    fn remove(&mut self, view: ViewId) -> usize {
        let withdrawn = self.views.remove(&mut self.memory, view).unwrap();
        self.settle(withdrawn)
    }

    fn root(&self, view: ViewId) -> Frame {
        self.views.root(view).unwrap()
    }

    /// What the processor finds: the VM's frame, by its number within the VM's, and what may be done with it.
    pub(crate) fn sees(&self, view: ViewId, page: u64) -> Option<(u64, EptPerms)> {
        let (frame, perms) = hardware::walk(&self.memory.tables, self.root(view), page)?;
        Some((frame - self.frames.first.0, perms))
    }

    /// Checks that every table is the base's or one view's, counted where it belongs, and none is lost. Each list has a page.
    fn check_tables(&self, views: &[ViewId], lists: usize) {
        let mut all = BTreeSet::new();
        hardware::tables(&self.memory.tables, self.root(ViewId::BASE), &mut all);
        for view in views {
            let before = all.len();
            hardware::tables(&self.memory.tables, self.root(*view), &mut all);
            let own = self.views.own_tables(*view).unwrap();
            assert_eq!(own.0 as usize, all.len() - before, "own tables of {view:?}");
        }
        assert_eq!(self.memory.tables.len(), all.len() + lists);
    }

    /// Empties everything, and checks that no right and no table is lost.
    pub(crate) fn end(mut self, views: &[ViewId]) {
        views.iter().for_each(|view| {
            self.remove(*view);
        });
        self.unmap(0, 1 << 36);
        for frame in 0..self.frames.count.0 {
            let info = self.ledger.info(Frame(self.frames.first.0 + frame));
            assert_eq!(info.unwrap().maps, 0, "a right to frame {frame} is lost");
        }
        let gone = self
            .views
            .destroy(&mut self.memory, &mut FakeTlb::default());
        assert!(gone.is_ok() && self.memory.tables.is_empty());
        self.ledger.free(Owner::Vm(VM), self.frames).unwrap();
    }
}
