//! Changing a tree: map, unmap, protect, split, destroy.
//!
//! Each operation has a fallible part that changes no translation (making tables, splitting large
//! pages into equal smaller ones) and an infallible part that writes leaves. Recursion is as deep
//! as the tree: at most [`Format::LEVELS`].

use core::marker::PhantomData;

use crate::addr::{FRAME_SIZE, Frame, FrameCount};

use super::stale::{Invalidate, Retired, Stale};
use super::{
    Address, ENTRIES, Entry, Format, PageSize, Table, TableError, TableMemory, pages_per_entry,
};

/// The widest physical address, in bits (Intel SDM vol. 3A, "Enumeration of Paging Features by
/// CPUID", MAXPHYADDR).
const PHYSICAL_BITS: u32 = 52;

/// A run of pages taken out of a tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run<I, A> {
    /// Its first address.
    pub input: I,
    /// The frame that address mapped to; the rest follow on.
    pub frame: Frame,
    /// Its length.
    pub count: FrameCount,
    /// Permissions and memory type, the same for all of it.
    pub attr: A,
}

/// What unmapping gives: a run, to be had after a flush.
pub type StaleRun<F> = Stale<F, Run<<F as Format>::Input, <F as Format>::Attr>>;

impl<F: Format> Table<F> {
    /// An empty tree whose pages are at most as large as `largest`.
    ///
    /// # Errors
    /// [`TableError::OutOfTables`] where there is no frame for the root.
    pub fn new(
        memory: &mut impl TableMemory,
        largest: PageSize,
    ) -> Result<Self, TableError<F::Input>> {
        let root = new_table::<F>(memory)?;
        Ok(Self {
            root,
            largest,
            generation: 0,
            format: PhantomData,
        })
    }

    /// The frame of the top-level table.
    #[must_use]
    pub const fn root(&self) -> Frame {
        self.root
    }

    /// Maps `count` frames from `frame` on at `start`, in the largest pages that alignment allows.
    ///
    /// # Errors
    /// Any [`TableError`]; then nothing is mapped (empty tables made on the way stay for later use).
    pub fn map(
        &mut self,
        memory: &mut impl TableMemory,
        start: F::Input,
        frame: Frame,
        count: FrameCount,
        attr: F::Attr,
    ) -> Result<(), TableError<F::Input>> {
        let span = span::<F>(start, count)?;
        let last = frame
            .0
            .checked_add(count.0)
            .ok_or(TableError::OutOfRange(start))?;
        if last > 1 << (PHYSICAL_BITS - 12) {
            return Err(TableError::OutOfRange(start));
        }
        let job = Job {
            first_page: span.first,
            frame,
            largest: self.largest,
        };
        self.prepare(memory, self.root, F::LEVELS, span, &job)?;
        fill::<F>(memory, self.root, F::LEVELS, span, &job, attr);
        Ok(())
    }

    /// Takes out the first run of pages within `count` frames from `start` that is contiguous in
    /// both addresses and has one set of attributes; `None` where nothing is mapped. Call until `None`
    /// to empty a range of any shape.
    ///
    /// # Errors
    /// A bad range, or no frame left to split a large page at the range's edge; then nothing changed.
    pub fn unmap_run(
        &mut self,
        memory: &mut impl TableMemory,
        start: F::Input,
        count: FrameCount,
    ) -> Result<Option<StaleRun<F>>, TableError<F::Input>> {
        let range = span::<F>(start, count)?;
        let Some((span, frame, attr)) = self.first_run(memory, range) else {
            return Ok(None);
        };
        self.cut(memory, span)?;
        let mut retired = Retired::none();
        clear::<F>(memory, self.root, F::LEVELS, span, &mut retired);
        let input = F::Input::from_raw(span.first * FRAME_SIZE);
        let run = Run {
            input,
            frame,
            count: FrameCount(span.end - span.first),
            attr,
        };
        Ok(Some(self.stale(run, retired)))
    }

    /// Replaces the attributes of every page in `count` frames from `start` by `change` of them.
    ///
    /// # Errors
    /// A bad range, a page that is not mapped, or no frame left to split a large page; then nothing
    /// changed.
    pub fn protect(
        &mut self,
        memory: &mut impl TableMemory,
        start: F::Input,
        count: FrameCount,
        change: impl Fn(F::Attr) -> F::Attr,
    ) -> Result<Stale<F, ()>, TableError<F::Input>> {
        let span = span::<F>(start, count)?;
        let mut next = span.first;
        for leaf in self.leaves_in(memory, span) {
            let first = leaf.input.raw() / FRAME_SIZE;
            if first > next {
                break;
            }
            next = first + leaf.size.frames().0;
        }
        if next < span.end {
            return Err(TableError::NotMapped(F::Input::from_raw(next * FRAME_SIZE)));
        }
        self.cut(memory, span)?;
        rewrite::<F>(memory, self.root, F::LEVELS, span, &change);
        Ok(self.stale((), Retired::none()))
    }

    /// The level-1 table that translates `at`, made where there is none: for windows, whose entries
    /// are rewritten in place.
    ///
    /// # Errors
    /// Any [`TableError`]; [`TableError::AlreadyMapped`] where a large page is there.
    pub fn leaf_table(
        &mut self,
        memory: &mut impl TableMemory,
        at: F::Input,
    ) -> Result<Frame, TableError<F::Input>> {
        let page = span::<F>(at, FrameCount(1))?.first;
        let mut table = self.root;
        for level in (2..=F::LEVELS).rev() {
            table = match F::decode(memory.read(table, index(page, level)), level) {
                Entry::Table(next) => next,
                Entry::Leaf(..) => return Err(TableError::AlreadyMapped(at)),
                Entry::Absent => {
                    let next = new_table::<F>(memory)?;
                    memory.write(table, index(page, level), F::table(next));
                    next
                }
            };
        }
        Ok(table)
    }

    /// Frees every table of an empty tree after a flush. No CPU may use its root from now on.
    ///
    /// # Errors
    /// `self` where something is still mapped.
    pub fn destroy(
        self,
        memory: &mut impl TableMemory,
        tlb: &mut impl Invalidate,
    ) -> Result<(), Self> {
        if !self.is_empty(memory) {
            return Err(self);
        }
        tlb.invalidate(self.root);
        free_tables::<F>(memory, self.root, F::LEVELS);
        Ok(())
    }

    /// Makes every table that `job` needs below `table`, linking only empty ones.
    fn prepare(
        &self,
        memory: &mut impl TableMemory,
        table: Frame,
        level: u8,
        span: Span,
        job: &Job,
    ) -> Result<(), TableError<F::Input>> {
        for part in span.parts(level) {
            match F::decode(memory.read(table, part.index), level) {
                Entry::Leaf(..) => {
                    let at = F::Input::from_raw(part.span.first * FRAME_SIZE);
                    return Err(TableError::AlreadyMapped(at));
                }
                Entry::Table(next) => self.prepare(memory, next, level - 1, part.span, job)?,
                Entry::Absent => {
                    if job.leaf(part.span, level).is_none() {
                        let next = new_table::<F>(memory)?;
                        memory.write(table, part.index, F::table(next));
                        self.prepare(memory, next, level - 1, part.span, job)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The first run in `range` that is contiguous on both sides with equal attributes.
    fn first_run(&self, memory: &impl TableMemory, range: Span) -> Option<(Span, Frame, F::Attr)> {
        let mut run: Option<(Span, Frame, F::Attr)> = None;
        for leaf in self.leaves_in(memory, range) {
            let leaf_first = leaf.input.raw() / FRAME_SIZE;
            let first = leaf_first.max(range.first);
            let end = (leaf_first + leaf.size.frames().0).min(range.end);
            let frame = Frame(leaf.frame.0 + (first - leaf_first));
            match &mut run {
                None => run = Some((Span { first, end }, frame, leaf.attr)),
                Some((span, start, attr)) => {
                    let follows = span.end == first
                        && start.0 + (span.end - span.first) == frame.0
                        && *attr == leaf.attr;
                    if !follows {
                        break;
                    }
                    span.end = end;
                }
            }
        }
        run
    }

    /// Splits the large pages that straddle the edges of `span`.
    fn cut(&self, memory: &mut impl TableMemory, span: Span) -> Result<(), TableError<F::Input>> {
        self.cut_at(memory, span.first)?;
        self.cut_at(memory, span.end)
    }

    fn cut_at(&self, memory: &mut impl TableMemory, page: u64) -> Result<(), TableError<F::Input>> {
        if page >= page_limit::<F>() {
            return Ok(());
        }
        let mut table = self.root;
        for level in (1..=F::LEVELS).rev() {
            if page & (pages_per_entry(level) - 1) == 0 {
                return Ok(());
            }
            let at = index(page, level);
            table = match F::decode(memory.read(table, at), level) {
                Entry::Absent => return Ok(()),
                Entry::Table(next) => next,
                Entry::Leaf(frame, attr) => {
                    let smaller = split::<F>(memory, table, at, level, frame, attr)?;
                    memory.write(table, at, F::table(smaller));
                    smaller
                }
            };
        }
        Ok(())
    }
}

/// A table of pages one size down that translates exactly as the leaf at `level` does.
fn split<F: Format>(
    memory: &mut impl TableMemory,
    table: Frame,
    at: usize,
    level: u8,
    frame: Frame,
    attr: F::Attr,
) -> Result<Frame, TableError<F::Input>> {
    let sticky = memory.read(table, at) & F::STICKY;
    // Only levels 2 and 3 have large leaves, so the level below always has a page size.
    let size = if level == 3 {
        PageSize::Size2M
    } else {
        PageSize::Size4K
    };
    let smaller = memory.alloc().ok_or(TableError::OutOfTables)?;
    for i in 0..ENTRIES {
        let part = Frame(frame.0 + i as u64 * size.frames().0);
        memory.write(smaller, i, F::leaf(part, size, attr) | sticky);
    }
    Ok(smaller)
}

/// Writes the leaves of `job`; `prepare` has made every table and found nothing in the way.
fn fill<F: Format>(
    memory: &mut impl TableMemory,
    table: Frame,
    level: u8,
    span: Span,
    job: &Job,
    attr: F::Attr,
) {
    for part in span.parts(level) {
        match F::decode(memory.read(table, part.index), level) {
            Entry::Table(next) => fill::<F>(memory, next, level - 1, part.span, job, attr),
            Entry::Absent => {
                let Some((frame, size)) = job.leaf(part.span, level) else {
                    unreachable!("a table that `prepare` made is gone");
                };
                memory.write(table, part.index, F::leaf(frame, size, attr));
            }
            Entry::Leaf(..) => unreachable!("a page appeared after `prepare` found none"),
        }
    }
}

/// Makes `span` absent and unlinks tables that become empty. Says whether `table` is one of them.
fn clear<F: Format>(
    memory: &mut impl TableMemory,
    table: Frame,
    level: u8,
    span: Span,
    retired: &mut Retired<F>,
) -> bool {
    for part in span.parts(level) {
        match F::decode(memory.read(table, part.index), level) {
            Entry::Absent => {}
            Entry::Leaf(..) => memory.write(table, part.index, F::ABSENT),
            Entry::Table(next) => {
                if clear::<F>(memory, next, level - 1, part.span, retired) {
                    memory.write(table, part.index, F::ABSENT);
                    retired.push(memory, next);
                }
            }
        }
    }
    (0..ENTRIES).all(|i| matches!(F::decode(memory.read(table, i), level), Entry::Absent))
}

fn rewrite<F: Format>(
    memory: &mut impl TableMemory,
    table: Frame,
    level: u8,
    span: Span,
    change: &impl Fn(F::Attr) -> F::Attr,
) {
    for part in span.parts(level) {
        let old = memory.read(table, part.index);
        match (F::decode(old, level), PageSize::at_level(level)) {
            (Entry::Table(next), _) => rewrite::<F>(memory, next, level - 1, part.span, change),
            (Entry::Leaf(frame, attr), Some(size)) => {
                let new = F::leaf(frame, size, change(attr)) | (old & F::STICKY);
                memory.write(table, part.index, new);
            }
            (Entry::Leaf(..), None) | (Entry::Absent, _) => {}
        }
    }
}

fn free_tables<F: Format>(memory: &mut impl TableMemory, table: Frame, level: u8) {
    if level > 1 {
        for i in 0..ENTRIES {
            if let Entry::Table(next) = F::decode(memory.read(table, i), level) {
                free_tables::<F>(memory, next, level - 1);
            }
        }
    }
    memory.free(table);
}

fn new_table<F: Format>(memory: &mut impl TableMemory) -> Result<Frame, TableError<F::Input>> {
    let table = memory.alloc().ok_or(TableError::OutOfTables)?;
    if F::ABSENT != 0 {
        for i in 0..ENTRIES {
            memory.write(table, i, F::ABSENT);
        }
    }
    Ok(table)
}

/// What one `map` call maps where.
struct Job {
    first_page: u64,
    frame: Frame,
    largest: PageSize,
}

impl Job {
    /// The leaf that maps `part` by one entry at `level`, where size and alignment allow one.
    #[inline]
    fn leaf(&self, part: Span, level: u8) -> Option<(Frame, PageSize)> {
        let size = PageSize::at_level(level)?;
        let frame = Frame(self.frame.0 + (part.first - self.first_page));
        let pages = pages_per_entry(level);
        let whole = part.end - part.first == pages;
        (size <= self.largest && whole && frame.0 & (pages - 1) == 0).then_some((frame, size))
    }
}

/// A range of 4 KiB page numbers, not empty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    pub(crate) first: u64,
    pub(crate) end: u64,
}

/// The part of a span that one table entry covers.
pub(crate) struct Part {
    pub(crate) index: usize,
    pub(crate) span: Span,
}

impl Span {
    /// The span cut at the entry borders of `level`.
    pub(crate) fn parts(self, level: u8) -> impl Iterator<Item = Part> {
        let pages = pages_per_entry(level);
        let mut next = self.first;
        core::iter::from_fn(move || {
            let first = next;
            (first < self.end).then(|| {
                next = ((first & !(pages - 1)) + pages).min(self.end);
                Part {
                    index: index(first, level),
                    span: Span { first, end: next },
                }
            })
        })
    }
}

/// The index of `page` in a table at `level`.
pub(crate) const fn index(page: u64, level: u8) -> usize {
    ((page / pages_per_entry(level)) % ENTRIES as u64) as usize
}

/// The first page number a tree of this format cannot translate.
pub(super) const fn page_limit<F: Format>() -> u64 {
    pages_per_entry(F::LEVELS + 1)
}

/// The pages of `count` frames from `start`.
pub(crate) fn span<F: Format>(
    start: F::Input,
    count: FrameCount,
) -> Result<Span, TableError<F::Input>> {
    if !start.raw().is_multiple_of(FRAME_SIZE) || count.0 == 0 {
        return Err(TableError::Misaligned(start));
    }
    let first = start.raw() / FRAME_SIZE;
    match first.checked_add(count.0) {
        Some(end) if end <= page_limit::<F>() => Ok(Span { first, end }),
        _ => Err(TableError::OutOfRange(start)),
    }
}
