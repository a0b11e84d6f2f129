//! The kernel/user split: which of a guest's tables and pages user code has a way to, and which it does not.
//!
//! A VM with the split has two views beside the base. In `kernel`, nothing that the guest's tables give to user mode can be executed
//! (where the processor cannot tell that, see [`Split::find_code`]). In
//! `user`, nothing of the kernel's can, and the *kernel half* of the guest's address space, the upper half of its top-level table,
//! leads nowhere: the level-3 tables that its entries point at are absent there, so that whatever else these tables map is out of reach with them. All
//! processes of a guest share these tables, so its CR3 need not be followed.
//!
//! Some pages of the kernel half the processor itself needs while user code runs: descriptor tables and task-state segments. These are
//! *named* ([`Name`]). Where one is, the level-3 table is not absent but replaced by a [`replica`](self), a table of the hypervisor's
//! that leads to named pages alone, and everywhere else to a *void*, where there is nothing in any view.
//!
//! [`Split`] is what a VM keeps of this: it decides and changes views. When a vCPU goes from one view to another is
//! [`crate::vcpu`]'s. Neighbours: [`crate::views`], [`crate::ledger`]; the shell implements [`Pages`]. See `docs/kernel-user-split.md`.

mod code;
mod error;
pub mod gates;
mod guard;
mod kernel_code;
mod kernel_half;
mod passage;
mod place;
mod private;
pub mod reach;
mod replica;
pub mod sites;
#[cfg(test)]
mod tests;
pub mod words;

use alloc::vec::Vec;

use crate::addr::{FRAME_SIZE, Frame, FrameCount, Gpa, Gva, Hpa, SIZE_1G, SIZE_2M};
use crate::ept::{EptAttr, EptPerms};
use crate::ledger::{Ledger, MapRight, Rights};
use crate::mtrr::MemoryType;
use crate::table::{ENTRIES, Invalidate, TableMemory};
use crate::views::list::{ListId, Slot};
use crate::views::{ViewError, ViewId, Views, Withdrawn};

pub use error::SplitError;
use gates::{KERNEL_INDEX, USER_INDEX};
pub use kernel_code::Fetch;
use kernel_code::KernelCode;
pub use kernel_half::{HALF_BYTES, HALF_OFFSET, KernelEntry, KernelHalf};
use passage::Passage;
pub use passage::{Opening, Read, Way};
pub use place::{Name, Named, Place, Places, Side};
use private::Private;
pub use private::Refusal;
use replica::{Replicas, Write};

/// The frames that replicas are made of, and the books; implemented by the shell. Invalidating takes every vCPU of the VM out of `user` besides.
pub trait Pages: Invalidate {
    /// Where page tables lie.
    type Tables: TableMemory;

    /// Whether the VM has RAM at `gpa`.
    fn is_ram(&self, gpa: Gpa) -> bool;
    /// Works on the ledger and on the page tables.
    fn books<T>(&mut self, work: impl FnOnce(&mut Ledger<'_>, &mut Self::Tables) -> T) -> T;
    /// A right of the VM's to page `page` of those that it has for the split; `None` where there are no more.
    fn right(&mut self, page: usize, rights: Rights) -> Option<MapRight>;
    /// Writes a page, eight bytes at a time, each in one piece; what `bytes` does not reach is zeroed.
    fn copy(&mut self, page: usize, bytes: &[u8]);
    /// Writes entry `index` of page `page`, in one piece.
    fn write(&mut self, page: usize, index: usize, entry: u64);
    /// Zeroes a frame of the guest's memory.
    fn wipe(&mut self, frame: Frame);
}

const ONE: FrameCount = FrameCount(1);

/// The split of one VM.
#[derive(Debug)]
pub struct Split {
    places: Places,
    kernel: ViewId,
    user: ViewId,
    /// What `kernel` allows with pages that are not to be written unseen.
    guard: EptPerms,
    /// The kernel's code, where the processor does not tell it from user code's.
    code: Option<KernelCode>,
    /// What user code keeps from its kernel.
    private: Private,
    /// Level-3 tables of the kernel half that are absent from `user`, in order.
    hidden: Vec<Gpa>,
    replicas: Replicas,
    /// What is named, by vCPU.
    names: Vec<Vec<Name>>,
    /// The guest's tables on the way there, by vCPU: `kernel` keeps them from being written unseen.
    paths: Vec<Vec<Gpa>>,
    /// How often the guest changed something that it was kept from changing unseen.
    changes: u64,
    guarded: Option<Gpa>,
    /// The way from one view to the other without an exit, once there is one.
    passage: Option<Passage>,
    /// It was told that there is none for this VM's kernel.
    warned: bool,
    /// The kernel that all this is for.
    entry: Option<KernelEntry>,
    list: Option<ListId>,
}

impl Split {
    /// The most level-3 tables of the kernel half that are followed. Linux has about 70.
    pub const MOST_TABLES: usize = 256;

    /// Pages that the split of a VM with `vcpus` vCPUs can need: those of the gates, replicas of a few level-3 tables, and for each vCPU of two tables of both levels
    /// below, and of two more while a local descriptor table is exchanged for another.
    #[must_use]
    pub const fn pages(vcpus: u32) -> FrameCount {
        FrameCount(passage::PAGES as u64 + 16 + 8 * vcpus as u64)
    }

    /// Tables that the two views of a VM with so many bytes of RAM can need, whatever its guest does: one for each 2 MiB that has a hidden table, and those
    /// above them; a table of each level for each page that is guarded or private, all far apart, of which there are no more guarded ones than replicas have pages; and
    /// those around the split's own pages.
    #[must_use]
    pub const fn tables(ram: u64, vcpus: u32, private: u32) -> FrameCount {
        const AROUND: u64 = 64;
        let apart = 2 * (Self::pages(vcpus).0 + private as u64);
        let blocks = ram.div_ceil(SIZE_2M);
        let low = match blocks < Self::MOST_TABLES as u64 {
            true => blocks,
            false => Self::MOST_TABLES as u64,
        };
        FrameCount(low + 2 * ram.div_ceil(SIZE_1G) + AROUND + apart)
    }

    /// Adds the two views to a VM's, of which user code may keep `private` pages from its kernel.
    ///
    /// # Errors
    /// No frame is left for a root.
    pub fn new(
        views: &mut Views,
        tables: &mut impl TableMemory,
        places: Places,
        vcpus: u32,
        private: u32,
    ) -> Result<Self, ViewError> {
        let data = EptPerms::READ | EptPerms::WRITE;
        let tells = views.tell_user_code();
        let (kernels, users) = match tells {
            true => (EptPerms::EXECUTE, EptPerms::USER_EXECUTE),
            // What of the kernel's could be executed in `user` is out of reach there.
            false => (
                EptPerms::empty(),
                EptPerms::EXECUTE | EptPerms::USER_EXECUTE,
            ),
        };
        let kernel = views.add(tables, data | kernels)?;
        let user = views.add(tables, data | users)?;
        Ok(Self {
            places,
            kernel,
            user,
            guard: EptPerms::READ | kernels,
            code: (!tells).then(KernelCode::default),
            private: Private::new(private),
            hidden: Vec::new(),
            replicas: Replicas::new(places, passage::PAGES),
            // The last are the gates'.
            names: (0..=vcpus).map(|_| Vec::new()).collect(),
            paths: (0..vcpus).map(|_| Vec::new()).collect(),
            changes: 0,
            guarded: None,
            passage: None,
            warned: false,
            entry: None,
            list: None,
        })
    }

    /// The view of a side.
    #[must_use]
    pub const fn view(&self, side: Side) -> ViewId {
        match side {
            Side::Base => ViewId::BASE,
            Side::Kernel => self.kernel,
            Side::User => self.user,
        }
    }

    /// What `gpa` is to a vCPU in the view of `side`.
    #[must_use]
    pub fn place(&self, side: Side, gpa: Gpa) -> Place {
        let page = Gpa(gpa.0 - gpa.page_offset());
        match side {
            Side::User
                if page >= self.places.first
                    || self.replicas.stands_at(page)
                    || self.hidden.binary_search(&page).is_ok() =>
            {
                Place::Barrier
            }
            Side::Kernel if self.private.has(page) => Place::Private,
            Side::Kernel if self.guards(page) => Place::Guarded,
            Side::Kernel if self.code.iter().any(|code| code.has(page)) => Place::Code,
            _ => Place::Elsewhere,
        }
    }

    /// The same, as the view shows the page: where it allows whatever it allows with any, an access that it refused was made before it did.
    pub fn place_now<P: Pages>(&self, side: Side, gpa: Gpa, views: &Views, pages: &mut P) -> Place {
        let place = self.place(side, gpa);
        if place != Place::Elsewhere {
            return place;
        }
        let leaf = pages.books(|_, tables| views.translate(tables, self.view(side), gpa));
        let data = EptPerms::READ | EptPerms::WRITE;
        match leaf.is_some_and(|leaf| leaf.attr.perms.contains(data)) {
            true => Place::Open,
            false => Place::Elsewhere,
        }
    }

    /// Frames that the two views take beside the base: for their own tables, and for pages of the split's that show in them.
    #[must_use]
    pub fn frames(&self, views: &Views) -> (FrameCount, FrameCount) {
        let tables = [self.kernel, self.user].into_iter();
        let tables = tables.filter_map(|view| views.own_tables(view));
        let passage = self.passage.as_ref().map_or(0, Passage::pages);
        (
            FrameCount(tables.fold(0, |sum, tables| sum + tables.0)),
            FrameCount(self.replicas.count() + passage),
        )
    }

    /// Whether nobody was told before that there is no passage.
    pub const fn warn(&mut self) -> bool {
        !core::mem::replace(&mut self.warned, true)
    }

    /// Everything that is named: what the kernel half is to user code.
    pub fn named(&self) -> impl Iterator<Item = Name> + '_ {
        self.names.iter().flatten().copied()
    }

    /// A vCPU's kernel says that SYSCALL enters it at `kernel`. One that said something else before is no more, and whatever was done for it is
    /// undone: another kernel was started in its place. From now on `kernel` keeps `table` from being written unseen: the top-level table that the guest
    /// changes first when the kernel half gets another level-3 table.
    ///
    /// The guarded table.
    ///
    /// # Errors
    /// No table is left for the override.
    pub fn begin<P: Pages>(
        &mut self,
        kernel: KernelEntry,
        table: Gpa,
        views: &mut Views,
        pages: &mut P,
    ) -> Result<Gpa, SplitError> {
        match (self.entry, self.guarded) {
            (Some(entry), Some(guarded)) if entry == kernel => return Ok(guarded),
            (None, _) => {}
            _ => self.forget(views, pages),
        }
        let guarded =
            pages.books(|_, tables| views.limit(tables, self.kernel, table, ONE, self.guard))?;
        settle(Vec::from([guarded]), views, pages);
        self.code.iter_mut().for_each(|code| code.lose(table));
        self.guarded = Some(table);
        self.entry = Some(kernel);
        Ok(table)
    }

    /// As [`Split::admit`], and notes the top-level table `table`, where nothing that is `named` has changed since it was read; false where something has, and the
    /// vCPU must not be let into `user`.
    ///
    /// # Errors
    /// As for `admit`.
    pub fn let_in<P: Pages>(
        &mut self,
        vcpu: u32,
        table: Gpa,
        half: &KernelHalf,
        named: &Named<'_>,
        views: &mut Views,
        pages: &mut P,
    ) -> Result<bool, SplitError> {
        if self.changes != named.changes {
            return Ok(false);
        }
        self.admit(vcpu, half, named, views, pages)?;
        let is_as_it_was = self.changes == named.changes;
        if is_as_it_was {
            self.see(table, pages);
        }
        Ok(is_as_it_was)
    }

    /// A vCPU is about to run user code with this kernel half: sees to it that `user` has nothing of it but what is named, by this vCPU and by others.
    /// True where anything had to be changed.
    ///
    /// # Errors
    /// The half cannot be hidden: the vCPU must not be let into `user`.
    pub fn admit<P: Pages>(
        &mut self,
        vcpu: u32,
        half: &KernelHalf,
        named: &Named<'_>,
        views: &mut Views,
        pages: &mut P,
    ) -> Result<bool, SplitError> {
        let mut stale = Vec::new();
        let hidden = self.hide(half, views, pages, &mut stale);
        let hidden =
            hidden.and_then(|()| self.guard(vcpu as usize, named.tables, views, pages, &mut stale));
        let names = named.names;
        let top_of = |gva| half.table_of(gva);
        let named = hidden
            .and_then(|()| self.name(vcpu as usize, &top_of, names, views, pages, &mut stale));
        let changed = !stale.is_empty() || named != Ok(false);
        if changed {
            settle(stale, views, pages);
            self.replicas.flushed();
        }
        named.map(|_| changed)
    }

    /// As [`Split::admit`] for whoever runs with this half later: nothing is named.
    ///
    /// # Errors
    /// The half cannot be hidden.
    pub fn cover<P: Pages>(
        &mut self,
        half: &KernelHalf,
        views: &mut Views,
        pages: &mut P,
    ) -> Result<(), SplitError> {
        let mut stale = Vec::new();
        let hidden = self.hide(half, views, pages, &mut stale);
        // Whatever was named may be elsewhere: every vCPU looks anew.
        self.changes += 1;
        self.unsee(pages);
        settle(stale, views, pages);
        hidden
    }

    /// Takes the kernel half's level-3 tables out of `user`: those in memory, as nothing else is in any view.
    fn hide<P: Pages>(
        &mut self,
        half: &KernelHalf,
        views: &mut Views,
        pages: &mut P,
        stale: &mut Vec<Withdrawn>,
    ) -> Result<(), SplitError> {
        for (_, table) in half.tables() {
            let Err(place) = self.hidden.binary_search(&table) else {
                continue;
            };
            if self.replicas.stands_at(table) || !pages.is_ram(table) {
                continue;
            }
            if self.hidden.len() >= Self::MOST_TABLES {
                return Err(SplitError::TooManyTables(table));
            }
            stale.push(pages.books(|_, tables| {
                views.limit(tables, self.user, table, ONE, EptPerms::empty())
            })?);
            self.hidden.insert(place, table);
        }
        Ok(())
    }

    /// Has `user` lead to what vCPU `number` names, or what the gates do; true where something else was named before.
    fn name<P: Pages>(
        &mut self,
        number: usize,
        top_of: &dyn Fn(Gva) -> Option<Gpa>,
        names: &[Name],
        views: &mut Views,
        pages: &mut P,
        stale: &mut Vec<Withdrawn>,
    ) -> Result<bool, SplitError> {
        let own = self.names.get_mut(number);
        let own = own.ok_or(SplitError::NoVcpu)?;
        // Another process may have another level-3 table in the place of one that was replaced.
        let is_led_to = |name: &Name| {
            let table = top_of(name.gva);
            table.is_none_or(|table| self.replicas.leads_to(table, name.gva))
        };
        if own.as_slice() == names && names.iter().all(is_led_to) {
            return Ok(false);
        }
        let before = core::mem::take(own);
        let stays = |name: &Name| names.contains(name) || self.named().any(|other| other == *name);
        let gone = before.iter().filter(|name| !stays(name));
        for Write { page, index, entry } in gone.flat_map(|name| self.replicas.forget(name.gva)) {
            pages.write(page, index, entry);
        }
        for name in names {
            let table = top_of(name.gva).ok_or(SplitError::NotKernels(name.gva))?;
            let user = self.user;
            let reached = self
                .replicas
                .reach(table, name.gva, &mut |page, entry, at| {
                    stale.push(show_page(views, pages, user, page, entry, at)?);
                    Ok(())
                })?;
            self.hidden.retain(|hidden| *hidden != table);
            let [low, high] = reached.links;
            for Write { page, index, entry } in [reached.leaf.leading_to(name), low, high] {
                pages.write(page, index, entry);
            }
        }
        if let Some(own) = self.names.get_mut(number) {
            own.extend_from_slice(names);
        }
        self.retire(views, pages, stale)?;
        Ok(true)
    }

    /// Takes out tables that lead to nothing named any more.
    fn retire<P: Pages>(
        &mut self,
        views: &mut Views,
        pages: &mut P,
        stale: &mut Vec<Withdrawn>,
    ) -> Result<(), SplitError> {
        let named: Vec<_> = self.named().map(|name| name.gva).collect();
        while let Some((Write { page, index, entry }, shown)) = self.replicas.take_idle(&named) {
            pages.write(page, index, entry);
            stale.push(pages.books(|_, tables| views.reset(tables, self.user, shown, ONE))?);
        }
        Ok(())
    }

    /// The VM's life ends, or the guest begins anew: both views are what the base is but for what may be executed.
    ///
    /// A flush takes every vCPU out of `user` ([`Pages`]); it is done with no way back there before the first table is uncovered.
    pub fn forget<P: Pages>(&mut self, views: &mut Views, pages: &mut P) {
        self.list_user(views, pages, false);
        settle(Vec::new(), views, pages);
        // Before `kernel` shows them again.
        self.wipe_private(views, pages);
        let everything = FrameCount((self.places.void().0 + FRAME_SIZE) / FRAME_SIZE);
        let mut stale = Vec::with_capacity(2);
        pages.books(|_, tables| {
            for view in [self.kernel, self.user] {
                match views.reset(tables, view, Gpa(0), everything) {
                    Ok(withdrawn) => stale.push(withdrawn),
                    // Ending all overrides cuts none, so it takes no table.
                    Err(error) => unreachable!("a view cannot be made what it was: {error}"),
                }
            }
        });
        self.hidden.clear();
        self.replicas = Replicas::new(self.places, passage::PAGES);
        self.names.iter_mut().for_each(Vec::clear);
        self.paths.iter_mut().for_each(Vec::clear);
        self.code.iter_mut().for_each(KernelCode::clear);
        self.guarded = None;
        self.passage = None;
        self.entry = None;
        settle(stale, views, pages);
        self.list_user(views, pages, true);
    }

    /// An EPTP list for all vCPUs, so that they can switch between the views: where it is.
    ///
    /// # Errors
    /// No frame is left.
    pub fn add_list(
        &mut self,
        views: &mut Views,
        tables: &mut impl TableMemory,
    ) -> Result<Option<Hpa>, ViewError> {
        let list = views.add_list(tables)?;
        for (index, view) in [(KERNEL_INDEX, self.kernel), (USER_INDEX, self.user)] {
            if let Some(slot) = Slot::new(index) {
                views.show(tables, list, slot, view)?;
            }
        }
        self.list = Some(list);
        Ok(views.list_address(list))
    }

    /// Lets vCPUs switch to `user` by themselves, or no longer.
    fn list_user<P: Pages>(&self, views: &mut Views, pages: &mut P, listed: bool) {
        let (Some(list), Some(slot)) = (self.list, Slot::new(USER_INDEX)) else {
            return;
        };
        let done = pages.books(|_, tables| match listed {
            true => views.show(tables, list, slot, self.user),
            // Who is in it is taken out by the flush that follows.
            false => views.hide(tables, list, slot).map(drop),
        });
        assert!(
            done.is_ok(),
            "the list of the split's views is not as it was"
        );
    }
}

/// Of `pages`, which are in order, the first of `count` from that of `gpa` on.
fn first_within(pages: &[Gpa], gpa: Gpa, count: FrameCount) -> Option<Gpa> {
    let first = Gpa(gpa.0 - gpa.page_offset());
    let next = pages.partition_point(|page| *page < first);
    let found = pages.get(next)?;
    (found.0 - first.0 < count.0.saturating_mul(FRAME_SIZE)).then_some(*found)
}

/// Shows page `page`, filled with entries of `level` that lead nowhere, at `at` in the `user` view.
fn show_page<P: Pages>(
    views: &mut Views,
    pages: &mut P,
    user: ViewId,
    page: usize,
    fill: u64,
    at: Gpa,
) -> Result<Withdrawn, SplitError> {
    let right = pages.right(page, Rights::READ);
    let right = right.ok_or(SplitError::NoPage)?;
    let bytes: Vec<u8> = (0..ENTRIES).flat_map(|_| fill.to_le_bytes()).collect();
    pages.copy(page, &bytes);
    remap(views, pages, user, at, right, EptPerms::READ)
}

/// Shows what `right` is to at `at`.
fn remap<P: Pages>(
    views: &mut Views,
    pages: &mut P,
    view: ViewId,
    at: Gpa,
    right: MapRight,
    perms: EptPerms,
) -> Result<Withdrawn, SplitError> {
    let attr = EptAttr::new(perms, MemoryType::WriteBack);
    pages.books(|ledger, tables| {
        views
            .remap(tables, view, at, right, attr)
            .map_err(|rejected| {
                ledger.surrender(rejected.right);
                rejected.error.into()
            })
    })
}

/// Flushes for what views gave up, and gives it back.
fn settle<P: Pages>(stale: Vec<Withdrawn>, views: &mut Views, pages: &mut P) {
    let proof = views.flush(pages);
    pages.books(|ledger, tables| {
        for withdrawn in stale {
            match withdrawn.flushed(&proof, tables) {
                Ok(rights) => rights.into_iter().for_each(|right| ledger.surrender(right)),
                Err(_) => unreachable!("the views were flushed after the change"),
            }
        }
    });
}
