//! Writing a view's tables.
//!
//! A view's tree is a pure function of its [`Overrides`] and of the base's tables. An entry whose pages follow one [`Rule`] stands for
//! them all: it repeats the base's entry at the same place with fewer permissions, so it points at the base's own table wherever
//! the base has one. An entry whose pages follow several rules points at a table of the view's own. So the base may change in any way without a view
//! needing a table, and whether a view has its own table at a place never needs to be noted.
//!
//! Every write takes the pages of one entry from what they were to what they are to be; new tables are complete before the one write
//! that links them, and what was unlinked keeps what it holds, because a CPU may be walking it.

use alloc::vec::Vec;

use crate::addr::{FRAME_SIZE, Frame, FrameCount, Gpa};
use crate::ept::{EptAttr, EptFormat, EptPerms, masked_table};
use crate::table::{
    ENTRIES, Entry, Format, PageSize, Span, TableMemory, index, pages_per_entry, span,
};

use super::overrides::{Overrides, Rule, entry_span};

/// The tables that a view is derived from.
#[derive(Clone, Copy)]
enum Below {
    /// The base has nothing there.
    Nothing,
    /// It has a table.
    Table(Frame),
    /// It has a page there, or the part of one that begins at this frame.
    Page(Frame, EptAttr),
}

impl Below {
    /// What the base has behind entry `index` of a table at `level`.
    fn entry(self, memory: &dyn TableMemory, level: u8, index: usize) -> Self {
        match self {
            Self::Nothing => Self::Nothing,
            Self::Page(first, attr) => {
                let into = index as u64 * pages_per_entry(level);
                Self::Page(Frame(first.0 + into), attr)
            }
            Self::Table(table) => match EptFormat::decode(memory.read(table, index), level) {
                Entry::Absent => Self::Nothing,
                Entry::Table(next) => Self::Table(next),
                Entry::Leaf(frame, attr) => Self::Page(frame, attr),
            },
        }
    }
}

/// Brings all entries of the view's own tables for `span` to what the base has by now.
pub(super) fn follow(
    memory: &mut dyn TableMemory,
    base: Frame,
    root: Frame,
    overrides: &Overrides,
    span: Span,
) {
    let mut change = Change {
        before: overrides,
        after: overrides,
        spare: Vec::new(),
        retired: Vec::new(),
    };
    change.apply(memory, root, Below::Table(base), EptFormat::LEVELS, span);
}

/// A change of a view's overrides on its way into the view's tables.
pub(super) struct Change<'a> {
    before: &'a Overrides,
    after: &'a Overrides,
    /// Tables to be used: exactly as many as are needed.
    spare: Vec<Frame>,
    /// Tables that were unlinked.
    retired: Vec<Frame>,
}

impl<'a> Change<'a> {
    /// A change with all tables that it takes, but the view's root; `None` where there are not enough.
    pub(super) fn prepare(
        memory: &mut dyn TableMemory,
        before: &'a Overrides,
        after: &'a Overrides,
        span: Span,
    ) -> Option<Self> {
        let needed = after.tables_beyond(before, EptFormat::LEVELS, span);
        let mut spare = Vec::with_capacity(needed);
        while spare.len() < needed {
            match memory.alloc() {
                Some(table) => spare.push(table),
                None => {
                    spare.drain(..).for_each(|table| memory.free(table));
                    return None;
                }
            }
        }
        Some(Self {
            before,
            after,
            spare,
            retired: Vec::new(),
        })
    }

    /// How many tables are to be used.
    pub(super) const fn spare(&self) -> usize {
        self.spare.len()
    }

    /// Applies it to the view at `root`, for `span`; which tables the view has no longer.
    pub(super) fn commit(
        mut self,
        memory: &mut dyn TableMemory,
        base: Frame,
        root: Frame,
        span: Span,
    ) -> Vec<Frame> {
        self.apply(memory, root, Below::Table(base), EptFormat::LEVELS, span);
        debug_assert!(
            self.spare.is_empty(),
            "a change took fewer tables than counted"
        );
        self.retired
    }

    fn apply(
        &mut self,
        memory: &mut dyn TableMemory,
        table: Frame,
        below: Below,
        level: u8,
        span: Span,
    ) {
        for part in span.parts(level) {
            let page = part.span.first;
            let had_own = self.before.rule(page, level).is_none();
            let source = below.entry(memory, level, part.index);
            let old = memory.read(table, part.index);
            match self.after.rule(page, level) {
                None if had_own => {
                    self.apply(memory, own_table(old, level), source, level - 1, part.span);
                }
                None => {
                    let noted = match EptFormat::decode(old, level) {
                        Entry::Leaf(..) => old & EptFormat::STICKY,
                        Entry::Absent | Entry::Table(_) => 0,
                    };
                    let first = entry_span(page, level).first;
                    let new = self.build(memory, source, level - 1, first, noted);
                    memory.write(table, part.index, EptFormat::table(new));
                }
                Some(rule) => {
                    let new = entry(rule, source, level);
                    // What the processor noted stays where the entry does.
                    if new != old & !EptFormat::STICKY {
                        memory.write(table, part.index, new | kept(old, new, level));
                    }
                    if had_own {
                        let own = own_table(old, level);
                        retire(memory, self.before, own, level - 1, page, &mut self.retired);
                    }
                }
            }
        }
    }

    /// A table of the view's own at `level` from page `first` on, and all below it. Pages begin with `noted` as what the processor noted.
    fn build(
        &mut self,
        memory: &mut dyn TableMemory,
        below: Below,
        level: u8,
        first: u64,
        noted: u64,
    ) -> Frame {
        let Some(table) = self.spare.pop() else {
            unreachable!("a change takes more tables than counted");
        };
        fill(memory, table, |memory, index| {
            let page = first + index as u64 * pages_per_entry(level);
            let source = below.entry(memory, level, index);
            match self.after.rule(page, level) {
                None => {
                    let next = self.build(memory, source, level - 1, page, noted);
                    EptFormat::table(next)
                }
                Some(rule) => {
                    let new = entry(rule, source, level);
                    match EptFormat::decode(new, level) {
                        Entry::Leaf(..) => new | noted,
                        Entry::Absent | Entry::Table(_) => new,
                    }
                }
            }
        });
        table
    }
}

/// Writes the root of a view without exceptions.
pub(super) fn fill_root(
    memory: &mut dyn TableMemory,
    base: Frame,
    root: Frame,
    overrides: &Overrides,
) {
    let level = EptFormat::LEVELS;
    fill(memory, root, |memory, index| {
        let source = Below::Table(base).entry(memory, level, index);
        let rule = overrides.rule(index as u64 * pages_per_entry(level), level);
        rule.map_or(EptFormat::ABSENT, |rule| entry(rule, source, level))
    });
}

/// Adds `table`, the view's own at `level` for `page`, and its own tables below it to `retired`.
pub(super) fn retire(
    memory: &dyn TableMemory,
    overrides: &Overrides,
    table: Frame,
    level: u8,
    page: u64,
    retired: &mut Vec<Frame>,
) {
    for part in entry_span(page, level + 1).parts(level) {
        if overrides.rule(part.span.first, level).is_none() {
            let own = own_table(memory.read(table, part.index), level);
            retire(memory, overrides, own, level - 1, part.span.first, retired);
        }
    }
    retired.push(table);
}

/// The leaf that `page` ends in below `root`, and what a walk may do that gets there.
pub(super) struct Found {
    pub(super) table: Frame,
    pub(super) index: usize,
    pub(super) entry: u64,
    pub(super) size: PageSize,
    /// Where the page begins.
    pub(super) frame: Frame,
    /// With the permissions that all entries on the way have.
    pub(super) attr: EptAttr,
}

impl Found {
    /// The frame of `page`, which lies in the page found.
    pub(super) const fn frame_of(&self, page: u64) -> Frame {
        Frame(self.frame.0 + (page & (self.size.frames().0 - 1)))
    }
}

/// The number of the page at `gpa`, where a tree can have one.
pub(super) fn page_of(gpa: Gpa) -> Option<u64> {
    let page = span::<EptFormat>(gpa.align_down(FRAME_SIZE), FrameCount(1)).ok()?;
    Some(page.first)
}

/// Walks as the processor does.
pub(super) fn walk(memory: &dyn TableMemory, root: Frame, page: u64) -> Option<Found> {
    let mut table = root;
    let mut perms = EptPerms::all();
    for level in (1..=EptFormat::LEVELS).rev() {
        let index = index(page, level);
        let entry = memory.read(table, index);
        perms &= EptPerms::from_bits_truncate(entry);
        match EptFormat::decode(entry, level) {
            Entry::Absent => return None,
            Entry::Table(next) => table = next,
            Entry::Leaf(frame, attr) => {
                return (!perms.is_empty()).then_some(Found {
                    table,
                    index,
                    entry,
                    size: PageSize::at_level(level)?,
                    frame,
                    attr: EptAttr { perms, ..attr },
                });
            }
        }
    }
    None
}

/// The entry at `level` of a view that follows `rule` where the base has `source`.
fn entry(rule: Rule, source: Below, level: u8) -> u64 {
    let leaf = |frame, attr: EptAttr| match PageSize::at_level(level) {
        Some(size) if !attr.perms.is_empty() => EptFormat::leaf(frame, size, attr),
        _ => EptFormat::ABSENT,
    };
    match (rule, source) {
        (Rule::Frames(frame, attr), _) => leaf(frame, attr),
        (Rule::Base(_), Below::Nothing) => EptFormat::ABSENT,
        (Rule::Base(perms), _) if perms.is_empty() => EptFormat::ABSENT,
        (Rule::Base(perms), Below::Table(table)) => masked_table(table, perms),
        (Rule::Base(perms), Below::Page(frame, attr)) => {
            let perms = attr.perms & perms;
            leaf(frame, EptAttr { perms, ..attr })
        }
    }
}

/// What stays noted when `old` becomes `new`: both map the same frames.
fn kept(old: u64, new: u64, level: u8) -> u64 {
    match (EptFormat::decode(old, level), EptFormat::decode(new, level)) {
        (Entry::Leaf(before, _), Entry::Leaf(after, _)) if before == after => {
            old & EptFormat::STICKY
        }
        _ => 0,
    }
}

fn own_table(entry: u64, level: u8) -> Frame {
    match EptFormat::decode(entry, level) {
        Entry::Table(table) => table,
        Entry::Absent | Entry::Leaf(..) => unreachable!("a view's own table is gone"),
    }
}

fn fill(
    memory: &mut dyn TableMemory,
    table: Frame,
    mut entry: impl FnMut(&mut dyn TableMemory, usize) -> u64,
) {
    for index in 0..ENTRIES {
        let entry = entry(memory, index);
        memory.write(table, index, entry);
    }
}
