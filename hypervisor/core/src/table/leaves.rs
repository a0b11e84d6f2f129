//! Reading a tree: translation of one address, and the walk over all pages of a range.

use core::marker::PhantomData;

use crate::addr::{FRAME_SIZE, Frame, FrameCount};

use super::engine::{self, Span};
use super::{Address, Entry, Format, PageSize, Table, TableError, TableMemory, pages_per_entry};

/// One mapped page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf<I, A> {
    /// The page's first address.
    pub input: I,
    /// The frame it maps to.
    pub frame: Frame,
    /// How large it is.
    pub size: PageSize,
    /// Permissions and memory type.
    pub attr: A,
}

impl<F: Format> Table<F> {
    /// The page that holds `input`, or `None` where nothing is mapped.
    pub fn translate(
        &self,
        memory: &impl TableMemory,
        input: F::Input,
    ) -> Option<Leaf<F::Input, F::Attr>> {
        let page = input.raw() / FRAME_SIZE;
        if page >= engine::page_limit::<F>() {
            return None;
        }
        match self.descend(memory, page) {
            Found::Leaf(leaf) => Some(leaf),
            Found::AbsentUntil(_) => None,
        }
    }

    /// Clears `bits` of what the processor noted ([`Format::STICKY`]) of the page that holds `input`, and says whether any was set.
    /// No translation changes, so nothing becomes stale; a processor that has the page cached notes nothing anew before it is flushed. What it
    /// notes at this very moment may be lost.
    pub fn take_noted(
        &mut self,
        memory: &mut impl TableMemory,
        input: F::Input,
        bits: u64,
    ) -> bool {
        let page = input.raw() / FRAME_SIZE;
        if page >= engine::page_limit::<F>() {
            return false;
        }
        let mut table = self.root;
        for level in (1..=F::LEVELS).rev() {
            let index = engine::index(page, level);
            let entry = memory.read(table, index);
            match F::decode(entry, level) {
                Entry::Table(next) => table = next,
                Entry::Absent => return false,
                Entry::Leaf(..) => {
                    let noted = entry & bits & F::STICKY;
                    if noted != 0 {
                        memory.write(table, index, entry & !noted);
                    }
                    return noted != 0;
                }
            }
        }
        false
    }

    /// All pages that overlap `count` frames from `start`, in order; large pages may begin before
    /// `start` or end after the range.
    ///
    /// # Errors
    /// A range that is empty, misaligned or too large.
    pub fn leaves<'a, M: TableMemory>(
        &'a self,
        memory: &'a M,
        start: F::Input,
        count: FrameCount,
    ) -> Result<Leaves<'a, F, M>, TableError<F::Input>> {
        let span = engine::span::<F>(start, count)?;
        Ok(self.leaves_in(memory, span))
    }

    /// Whether nothing at all is mapped.
    pub fn is_empty(&self, memory: &impl TableMemory) -> bool {
        let all = Span {
            first: 0,
            end: engine::page_limit::<F>(),
        };
        self.leaves_in(memory, all).next().is_none()
    }

    pub(super) fn leaves_in<'a, M: TableMemory>(
        &'a self,
        memory: &'a M,
        span: Span,
    ) -> Leaves<'a, F, M> {
        Leaves {
            table: self,
            memory,
            span,
            format: PhantomData,
        }
    }

    fn descend(&self, memory: &impl TableMemory, page: u64) -> Found<F> {
        let mut table = self.root;
        let mut level = F::LEVELS;
        loop {
            let covered = pages_per_entry(level);
            let first = page & !(covered - 1);
            match F::decode(memory.read(table, engine::index(page, level)), level) {
                Entry::Table(next) if level > 1 => {
                    table = next;
                    level -= 1;
                }
                Entry::Leaf(frame, attr) => {
                    if let Some(size) = PageSize::at_level(level) {
                        let input = F::Input::from_raw(first * FRAME_SIZE);
                        return Found::Leaf(Leaf {
                            input,
                            frame,
                            size,
                            attr,
                        });
                    }
                    return Found::AbsentUntil(first + covered);
                }
                Entry::Absent | Entry::Table(_) => return Found::AbsentUntil(first + covered),
            }
        }
    }
}

enum Found<F: Format> {
    Leaf(Leaf<F::Input, F::Attr>),
    /// Nothing is mapped from the page asked for up to this one.
    AbsentUntil(u64),
}

/// The pages of a range, in address order; see [`Table::leaves`].
#[derive(Debug)]
pub struct Leaves<'a, F: Format, M> {
    table: &'a Table<F>,
    memory: &'a M,
    span: Span,
    format: PhantomData<F>,
}

impl<F: Format, M: TableMemory> Iterator for Leaves<'_, F, M> {
    type Item = Leaf<F::Input, F::Attr>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.span.first < self.span.end {
            match self.table.descend(self.memory, self.span.first) {
                Found::Leaf(leaf) => {
                    let first = leaf.input.raw() / FRAME_SIZE;
                    self.span.first = first + leaf.size.frames().0;
                    return Some(leaf);
                }
                Found::AbsentUntil(next) => self.span.first = next,
            }
        }
        None
    }
}
