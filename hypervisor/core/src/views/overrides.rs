//! What a view has that the base has not: for every page the rule that it follows.
//!
//! [`Overrides`] is all that is known of a view. Its tables follow from this and the base's tables, and nothing else; in particular,
//! *which* tables are its own follows from this alone. Neighbour: `tree` writes the tables.

use alloc::vec::Vec;

use crate::addr::Frame;
use crate::ept::{EptAttr, EptPerms};
use crate::table::{PageSize, Span, pages_per_entry};

/// What a view shows of a run of pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rule {
    /// What the base has there, with at most these permissions; with none of them, nothing.
    Base(EptPerms),
    /// Frames from this one on, under their key, whatever the base has.
    Frames(Frame, EptAttr),
}

impl Rule {
    /// The rule as it is `pages` further on.
    const fn from(self, pages: u64) -> Self {
        match self {
            Self::Base(perms) => Self::Base(perms),
            Self::Frames(first, attr) => Self::Frames(Frame(first.0 + pages), attr),
        }
    }
}

/// A run of pages with a rule of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) span: Span,
    pub(super) rule: Rule,
}

impl Range {
    /// The part of it from page `first` up to `end`, where there is any.
    fn part(self, first: u64, end: u64) -> Option<Self> {
        let span = Span {
            first: self.span.first.max(first),
            end: self.span.end.min(end),
        };
        (span.first < span.end).then(|| Self {
            span,
            rule: self.rule.from(span.first - self.span.first),
        })
    }

    /// Whether `next` goes on where this range ends, by the same rule.
    fn continues_in(self, next: Self) -> bool {
        let pages = self.span.end - self.span.first;
        self.span.end == next.span.first && self.rule.from(pages) == next.rule
    }
}

/// The rule of every page of a view.
#[derive(Clone, Debug)]
pub(super) struct Overrides {
    /// For pages that no range has.
    default: EptPerms,
    largest: PageSize,
    /// In order; they neither overlap nor continue one another.
    ranges: Vec<Range>,
}

impl Overrides {
    /// A view that has the base's pages, with at most the permissions `default`, in pages as large as `largest`.
    pub(super) const fn new(default: EptPerms, largest: PageSize) -> Self {
        Self {
            default,
            largest,
            ranges: Vec::new(),
        }
    }

    /// The one rule that an entry at `level` can put down for all the pages from `page`'s entry; `None` where it takes a table of the
    /// view's own.
    pub(super) fn rule(&self, page: u64, level: u8) -> Option<Rule> {
        let pages = pages_per_entry(level);
        let first = page & !(pages - 1);
        let end = first + pages;
        let next = self.ranges.partition_point(|range| range.span.end <= first);
        let Some(range) = self.ranges.get(next).filter(|range| range.span.first < end) else {
            return Some(Rule::Base(self.default));
        };
        if range.span.first > first || range.span.end < end {
            return None;
        }
        let rule = range.rule.from(first - range.span.first);
        match rule {
            Rule::Base(_) => Some(rule),
            Rule::Frames(frame, _) => PageSize::at_level(level)
                .filter(|size| *size <= self.largest && frame.0 & (pages - 1) == 0)
                .map(|_| rule),
        }
    }

    /// The ranges within `span`.
    pub(super) fn within(&self, span: Span) -> impl Iterator<Item = Range> {
        self.ranges
            .iter()
            .filter_map(move |range| range.part(span.first, span.end))
    }

    /// The same with `rule` for `span`; with the default, where there is none.
    pub(super) fn with(&self, span: Span, rule: Option<Rule>) -> Self {
        let default = Rule::Base(self.default);
        let rule = rule.filter(|rule| *rule != default);
        let before = self
            .ranges
            .iter()
            .filter_map(|range| range.part(0, span.first));
        let after = self
            .ranges
            .iter()
            .filter_map(|range| range.part(span.end, u64::MAX));
        let mut ranges: Vec<Range> = Vec::with_capacity(self.ranges.len() + 2);
        for range in before
            .chain(rule.map(|rule| Range { span, rule }))
            .chain(after)
        {
            match ranges.last_mut() {
                Some(last) if last.continues_in(range) => last.span.end = range.span.end,
                _ => ranges.push(range),
            }
        }
        Self { ranges, ..*self }
    }

    /// How many tables of its own a view with these rules needs, and has not with the rules `before`, below a table at `level`, for `span`.
    pub(super) fn tables_beyond(&self, before: &Self, level: u8, span: Span) -> usize {
        let mut tables = 0;
        for part in span.parts(level) {
            let page = part.span.first;
            if self.rule(page, level).is_some() {
                continue;
            }
            // A table that is made is made whole; in one that is there, only what changes is looked at.
            tables += match before.rule(page, level) {
                None => self.tables_beyond(before, level - 1, part.span),
                Some(_) => 1 + self.tables(level - 1, entry_span(page, level)),
            };
        }
        tables
    }

    /// How many tables of its own a view with these rules needs below a table at `level`, for `span`.
    fn tables(&self, level: u8, span: Span) -> usize {
        let own = span.parts(level).map(|part| part.span.first);
        own.filter(|page| self.rule(*page, level).is_none())
            .map(|page| 1 + self.tables(level - 1, entry_span(page, level)))
            .sum()
    }
}

/// All pages that the entry for `page` in a table at `level` is for.
pub(super) const fn entry_span(page: u64, level: u8) -> Span {
    let pages = pages_per_entry(level);
    let first = page & !(pages - 1);
    Span {
        first,
        end: first + pages,
    }
}
