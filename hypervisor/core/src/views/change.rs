//! Adding and removing views, and what they override.

use alloc::vec::Vec;

use crate::addr::{Frame, FrameCount, Gpa};
use crate::ept::{EptAttr, EptError, EptFormat, EptPerms};
use crate::ledger::{FrameRun, MapRight};
use crate::table::{Format, Span, TableError, TableMemory, span};

use super::overrides::{Overrides, Rule, entry_span};
use super::stale::GivenUp;
use super::tree::{self, Change};
use super::{RemapRejected, View, ViewError, ViewId, Views, Withdrawn};

impl Views {
    /// A further view: the base with at most the permissions `default` everywhere, or, where that is none, nothing at all.
    ///
    /// # Errors
    /// Permissions that no entry can have, or no frame for the root.
    pub fn add(
        &mut self,
        memory: &mut impl TableMemory,
        default: EptPerms,
    ) -> Result<ViewId, ViewError> {
        self.check_limit(default)?;
        let next = self.last.0.checked_add(1).map(ViewId);
        let id = next.ok_or(ViewError::TooManyViews)?;
        let root = memory.alloc().ok_or(TableError::OutOfTables)?;
        let overrides = Overrides::new(default, self.base.caps().largest_page());
        tree::fill_root(memory, self.base.root(), root, &overrides);
        self.last = id;
        self.others.push(View {
            id,
            root,
            overrides,
            tables: 1,
        });
        Ok(id)
    }

    /// Removes a view that is in no EPTP list. Its root is used for something else once the [`Withdrawn`] is opened; until the flush for
    /// that, vCPUs may be in it.
    ///
    /// # Errors
    /// It is the base, gone, or in a list.
    pub fn remove(
        &mut self,
        memory: &mut impl TableMemory,
        id: ViewId,
    ) -> Result<Withdrawn, ViewError> {
        let place = self.place(id)?;
        if let Some((list, slot)) = self.find_listed(memory, id) {
            return Err(ViewError::Listed(list, slot));
        }
        let view = self.others.remove(place);
        let tables = view.own_tables(memory);
        let everything = entry_span(0, EptFormat::LEVELS + 1);
        let rights = self.withdraw(&view.overrides, everything);
        self.departing.push(view.root);
        Ok(self.give_up(tables, rights))
    }

    /// Has a view show `count` pages from `gpa` with at most the permissions `perms`, whatever its default: with none, the pages are absent.
    /// This takes the place of what the view had there.
    ///
    /// # Errors
    /// No such view, a bad range, permissions that no entry can have, or no frame left for a table; nothing changed.
    pub fn limit(
        &mut self,
        memory: &mut impl TableMemory,
        id: ViewId,
        gpa: Gpa,
        count: FrameCount,
        perms: EptPerms,
    ) -> Result<Withdrawn, ViewError> {
        self.check_limit(perms)?;
        let span = span::<EptFormat>(gpa, count)?;
        self.change(memory, id, span, Some(Rule::Base(perms)))
    }

    /// Has a view show the frames of `right` from `gpa` on, whatever the base has there. This takes the place of what the view had there.
    ///
    /// # Errors
    /// The right comes back with the reason; nothing changed.
    pub fn remap(
        &mut self,
        memory: &mut impl TableMemory,
        id: ViewId,
        gpa: Gpa,
        right: MapRight,
        attr: EptAttr,
    ) -> Result<Withdrawn, RemapRejected> {
        let FrameRun { first, count } = right.run();
        let rule = Rule::Frames(right.tag().on(first), attr);
        let checked = self.base.check(&right, attr.perms).map_err(ViewError::from);
        let span = checked.and_then(|()| Ok(span::<EptFormat>(gpa, count)?));
        match span.and_then(|span| self.change(memory, id, span, Some(rule))) {
            Ok(withdrawn) => {
                self.remapped.deposit(right);
                Ok(withdrawn)
            }
            Err(error) => Err(RemapRejected { error, right }),
        }
    }

    /// Ends all overrides of a view within `count` pages from `gpa`.
    ///
    /// # Errors
    /// No such view, a bad range, or no frame left for a table, where an override is cut; nothing changed.
    pub fn reset(
        &mut self,
        memory: &mut impl TableMemory,
        id: ViewId,
        gpa: Gpa,
        count: FrameCount,
    ) -> Result<Withdrawn, ViewError> {
        let span = span::<EptFormat>(gpa, count)?;
        self.change(memory, id, span, None)
    }

    fn change(
        &mut self,
        memory: &mut dyn TableMemory,
        id: ViewId,
        span: Span,
        rule: Option<Rule>,
    ) -> Result<Withdrawn, ViewError> {
        let base = self.base.root();
        let place = self.place(id)?;
        let view = self.others.get_mut(place).ok_or(ViewError::NoView(id))?;
        let after = view.overrides.with(span, rule);
        let change = Change::prepare(memory, &view.overrides, &after, span);
        let change = change.ok_or(TableError::OutOfTables)?;
        let added = change.spare();
        let tables = change.commit(memory, base, view.root, span);
        view.tables = view.tables + added - tables.len();
        let before = core::mem::replace(&mut view.overrides, after);
        let rights = self.withdraw(&before, span);
        Ok(self.give_up(tables, rights))
    }

    /// The rights to what `overrides` remap within `span`, which the view no longer does.
    fn withdraw(&mut self, overrides: &Overrides, span: Span) -> Vec<MapRight> {
        let keys = self.base.caps().keys();
        let mut rights = Vec::new();
        for range in overrides.within(span) {
            if let Rule::Frames(tagged, attr) = range.rule {
                let (first, tag) = keys.split(tagged);
                let count = FrameCount(range.span.end - range.span.first);
                let run = FrameRun::new(first, count);
                rights.push(self.remapped.withdraw(run, attr.perms.rights(), tag));
            }
        }
        rights
    }

    fn give_up(&mut self, tables: Vec<Frame>, rights: Vec<MapRight>) -> Withdrawn {
        Withdrawn(self.base.outdated(GivenUp { tables, rights }))
    }

    /// Whether entries can say `perms`, and only `perms`.
    fn check_limit(&self, perms: EptPerms) -> Result<(), ViewError> {
        let caps = self.base.caps();
        let differ = perms.contains(EptPerms::EXECUTE) != perms.contains(EptPerms::USER_EXECUTE);
        if differ && !caps.has_mode_based_execute() {
            return Err(ViewError::NoModeBasedExecute(perms));
        }
        match perms.is_empty() || caps.allows(perms) {
            true => Ok(()),
            false => Err(EptError::Permissions(perms).into()),
        }
    }
}

impl View {
    /// All tables of its own.
    pub(super) fn own_tables(&self, memory: &dyn TableMemory) -> Vec<Frame> {
        let mut tables = Vec::with_capacity(self.tables);
        tree::retire(
            memory,
            &self.overrides,
            self.root,
            EptFormat::LEVELS,
            0,
            &mut tables,
        );
        debug_assert_eq!(tables.len(), self.tables);
        tables
    }
}
