//! A VM's memory while it is encrypted: which page is readable, and every step between sealed and readable.
//!
//! [`Space`] belongs to one life of one VM. A page of it is
//!
//! ```text
//!   fresh --present--> readable --make_room, seal_some--> sealed --present--> readable
//! ```
//!
//! *Fresh* pages hold zeroes and were never used; *readable* ones are clear in the ledger and, where they are RAM, in the VM's view;
//! *sealed* ones are in nobody's page tables. [`Space::present`] makes a page readable: at an EPT violation, and before the
//! hypervisor copies from or to it. With a window, it first seals what [`Clock`] chooses, a batch at a time,
//! so that one flush of the view serves all of it. [`Space::seal_some`] seals everything, a batch at a time, when the VM is paused.
//!
//! The order is the same everywhere: unmap, flush, seal in the ledger, encrypt; and back: verify, decrypt, unseal in the
//! ledger, map. So there is no moment in which a page is in a view and not wholly clear. Effects are a [`Sealer`]'s.
//! Whoever calls holds the VM's memory for itself.
//!
//! Here is what a space keeps, and the way to readable; `leave` is the way to sealed, [`survey`] looks without changing anything.

mod leave;
pub mod survey;

use alloc::vec::Vec;

use super::clock::Clock;
use super::pages::PageMap;
use super::place::{Place, Tag};
use super::refusal::Refusal;
use crate::addr::{FRAME_SIZE, Frame, FrameCount, Gpa, SIZE_2M};
use crate::ept::EptPerms;
use crate::ledger::{FrameRun, KeyId, Ledger, MapRight, Rights, State, VmId};
use crate::mtrr::Mtrrs;
use crate::table::{Invalidate, TableMemory};
use crate::views::Views;

pub use survey::Survey;

/// The most pages that one flush serves.
pub const BATCH: usize = 16;
/// The most pages that are made readable before they are asked for.
const MOST_AHEAD: u64 = 8;

/// The effects of sealing; implemented by the shell. Invalidating is of the VM's view, on every CPU that may have it.
pub trait Sealer: Invalidate {
    /// Where page tables lie.
    type Tables: TableMemory;

    /// Works on the ledger and on the page tables.
    fn books<T>(&mut self, work: impl FnOnce(&mut Ledger<'_>, &mut Self::Tables) -> T) -> T;
    /// Encrypts the page that the right is to, where it is, and tells its tag.
    fn encrypt(&mut self, place: Place, right: MapRight) -> (Tag, MapRight);
    /// Whether the tag is that of the page that the right is to.
    fn verify(&mut self, place: Place, tag: Tag, right: MapRight) -> (bool, MapRight);
    /// As [`Sealer::verify`]; if it is, the page is decrypted where it is.
    fn decrypt(&mut self, place: Place, tag: Tag, right: MapRight) -> (bool, MapRight);
}

/// The VM's views, and what its pages are mapped with.
#[derive(Debug)]
pub struct Mapper<'a> {
    /// The page tables: what leaves the base leaves all views.
    pub views: &'a mut Views,
    /// Memory types.
    pub mtrrs: &'a Mtrrs,
    /// Where its pages are.
    pub pages: PageMap<'a>,
}

/// What happened so far in a VM's life.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Pages that somebody waited for.
    pub faults: u64,
    /// Pages that were fresh.
    pub fresh: u64,
    /// Pages that were sealed.
    pub unsealed: u64,
    /// How many of both came before they were asked for.
    pub ahead: u64,
    /// Pages that were sealed.
    pub sealed: u64,
    /// Flushes of the view.
    pub flushes: u64,
    /// Looks at pages that could not be sealed because the hypervisor copied from or to them, or somebody else had them: one page may be
    /// looked at often.
    pub pinned: u64,
}

/// Memory that a [`Space`] keeps its records in, from one life of its VM to the next.
#[derive(Debug, Default)]
pub struct Records {
    /// A tag a page.
    tags: Vec<Tag>,
    /// A bit a page: it was used.
    touched: Vec<u64>,
    clock: Clock,
}

impl Records {
    /// Records of `pages` pages, at most `window` of them readable where there is a bound.
    #[must_use]
    pub fn new(pages: u64, window: Option<FrameCount>) -> Self {
        let room = window.map_or(0, |window| window.0 as usize + BATCH);
        Self {
            tags: alloc::vec![Tag::NONE; pages as usize],
            touched: alloc::vec![0; pages.div_ceil(64) as usize],
            clock: Clock::with_capacity(room),
        }
    }

    /// Bytes that [`Records::new`] asks for.
    #[must_use]
    pub const fn bytes(pages: u64, window: Option<FrameCount>) -> u64 {
        let room = match window {
            Some(window) => window.0 + BATCH as u64,
            None => 0,
        };
        pages * size_of::<Tag>() as u64 + pages.div_ceil(64) * 8 + 2 * room * 4
    }
}

/// One life of an encrypted VM's memory.
#[derive(Debug)]
pub struct Space {
    vm: VmId,
    key: KeyId,
    window: Option<FrameCount>,
    records: Records,
    touched: u64,
    readable: u64,
    /// The page after the one that was asked for last and those that came with it, and how many came ahead then.
    expected: (u64, u64),
    /// Where [`Space::seal_some`] goes on.
    sweep: u64,
    counts: Counts,
}

impl Space {
    /// Memory that is all fresh: scrubbed, mapped nowhere.
    #[must_use]
    pub fn new(vm: VmId, key: KeyId, window: Option<FrameCount>, mut records: Records) -> Self {
        records.touched.fill(0);
        records.clock.clear();
        Self {
            vm,
            key,
            window,
            records,
            touched: 0,
            readable: 0,
            expected: (u64::MAX, 0),
            sweep: 0,
            counts: Counts::default(),
        }
    }

    /// Its records, for the next life: the VM's frames were given back.
    #[must_use]
    pub fn end(self) -> Records {
        self.records
    }

    /// What happened so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// How many pages were ever used.
    #[must_use]
    pub const fn touched(&self) -> u64 {
        self.touched
    }

    /// How many pages are readable.
    #[must_use]
    pub const fn readable(&self) -> u64 {
        self.readable
    }

    /// The most that may be readable, where there is a bound.
    #[must_use]
    pub const fn window(&self) -> Option<FrameCount> {
        self.window
    }

    /// Makes `page` readable; false where it was.
    ///
    /// # Errors
    /// [`Refusal`]: the VM cannot go on.
    pub fn present(
        &mut self,
        page: u64,
        mapper: &mut Mapper<'_>,
        sealer: &mut impl Sealer,
    ) -> Result<bool, Refusal> {
        let run = mapper.pages.frame(page).ok_or(Refusal::NoPage)?;
        let state = sealer.books(|ledger, _| ledger.info(run.first).map(|info| info.state));
        let is_fresh = match state {
            Some(State::Sealed) => false,
            Some(State::Clear | State::Shared) if self.was_touched(page) => return Ok(false),
            Some(State::Clear) => true,
            _ => return Err(Refusal::NotClear(run.first)),
        };
        self.counts.faults += 1;
        if is_fresh
            && self.window.is_none()
            && let Some(block) = self.fresh_block(page, mapper.pages)
        {
            self.bring_fresh(block, mapper, sealer)?;
            return Ok(true);
        }
        let ahead = self.ahead(page);
        self.make_room(1 + ahead, mapper, sealer)?;
        for next in page..=page + ahead {
            if next > page {
                if !self.comes_ahead(next, mapper.pages, sealer) {
                    break;
                }
                self.counts.ahead += 1;
            }
            if self.was_touched(next) {
                self.bring_sealed(next, mapper, sealer)?;
            } else {
                self.bring_fresh(page_range(next, 1), mapper, sealer)?;
            }
            self.expected.0 = next + 1;
        }
        Ok(true)
    }

    /// How many pages to bring beside `page`: more each time that the page asked for is the one after those that came last.
    fn ahead(&mut self, page: u64) -> u64 {
        let (next, before) = self.expected;
        let ahead = match page == next {
            true => (before * 2).clamp(1, MOST_AHEAD),
            false => 0,
        };
        // A window that holds little is not spent on guesses.
        let most = self.window.map_or(MOST_AHEAD, |window| window.0 / 64);
        let ahead = ahead.min(most);
        self.expected = (page + 1, ahead);
        ahead
    }

    /// Whether `page` can come ahead: it is RAM and not readable.
    fn comes_ahead(&self, page: u64, pages: PageMap<'_>, sealer: &mut impl Sealer) -> bool {
        let Some(run) = pages.frame(page).filter(|_| pages.is_ram(page)) else {
            return false;
        };
        let state = sealer.books(|ledger, _| ledger.info(run.first).map(|info| info.state));
        match state {
            Some(State::Sealed) => true,
            Some(State::Clear) => !self.was_touched(page),
            _ => false,
        }
    }

    /// The 2 MiB of RAM around `page`, if all of it is fresh and its frames lie in a row: mapped at once where nothing bounds what is readable.
    fn fresh_block(&self, page: u64, pages: PageMap<'_>) -> Option<FrameRun> {
        const PAGES: u64 = SIZE_2M / FRAME_SIZE;
        let gpa = pages.gpa(page).align_down(SIZE_2M);
        let first = pages.page_at(gpa)?;
        let last = pages.page_at(Gpa(gpa.0 + SIZE_2M - FRAME_SIZE));
        let whole = last == Some(first + PAGES - 1)
            && pages.backing.piece(first, FrameCount(PAGES))?.count.0 == PAGES;
        let is_fresh = |page| !self.was_touched(page);
        (whole && (first..first + PAGES).all(is_fresh)).then(|| page_range(first, PAGES))
    }

    /// Maps fresh pages, whose frames lie in a row.
    fn bring_fresh(
        &mut self,
        pages: FrameRun,
        mapper: &mut Mapper<'_>,
        sealer: &mut impl Sealer,
    ) -> Result<(), Refusal> {
        let first = pages.first.0;
        let run = mapper.pages.backing.piece(first, pages.count);
        let run = run.ok_or(Refusal::NoPage)?;
        self.map_run(first, run, mapper, sealer)?;
        for page in first..first + pages.count.0 {
            self.note_touched(page);
            self.note_readable(page);
        }
        self.counts.fresh += pages.count.0;
        Ok(())
    }

    /// Verifies, decrypts and maps a sealed page.
    fn bring_sealed(
        &mut self,
        page: u64,
        mapper: &mut Mapper<'_>,
        sealer: &mut impl Sealer,
    ) -> Result<(), Refusal> {
        let run = mapper.pages.frame(page).ok_or(Refusal::NoPage)?;
        let place = self.place(page, run.first, mapper.pages, sealer);
        let (unsealing, right) = sealer.books(|ledger, _| ledger.grant_unseal(self.vm, run))?;
        let (is_whole, right) = sealer.decrypt(place, self.tag(page), right);
        if !is_whole {
            sealer.books(|ledger, _| ledger.surrender(right));
            return Err(Refusal::Tampered {
                gpa: place.gpa,
                frame: run.first,
            });
        }
        sealer.books(|ledger, _| ledger.unseal(unsealing, right))?;
        // Counted first: clear it is, whether it can be mapped or not.
        self.note_readable(page);
        self.map_run(page, run, mapper, sealer)?;
        self.counts.unsealed += 1;
        Ok(())
    }

    fn map_run(
        &self,
        page: u64,
        run: FrameRun,
        mapper: &mut Mapper<'_>,
        sealer: &mut impl Sealer,
    ) -> Result<(), Refusal> {
        if !mapper.pages.is_ram(page) {
            return Ok(());
        }
        let Mapper {
            views,
            mtrrs,
            pages,
        } = mapper;
        let gpa = pages.gpa(page);
        sealer.books(|ledger, tables| {
            let rights = Rights::READ | Rights::WRITE | Rights::EXECUTE;
            let right = ledger.grant(self.vm, run, rights)?;
            let perms = EptPerms::ALL;
            views
                .map_memory(tables, gpa, right, perms, mtrrs)
                .map_err(|rejected| {
                    ledger.surrender(rejected.right);
                    Refusal::View(rejected.error)
                })
        })
    }

    fn place(
        &self,
        page: u64,
        frame: Frame,
        pages: PageMap<'_>,
        sealer: &mut impl Sealer,
    ) -> Place {
        let version = sealer.books(|ledger, _| ledger.info(frame).map_or(0, |info| info.version));
        Place {
            vm: self.vm,
            gpa: pages.gpa(page),
            version: version.into(),
        }
    }

    fn tag(&self, page: u64) -> Tag {
        let tag = self.records.tags.get(page as usize).copied();
        tag.unwrap_or(Tag::NONE)
    }

    fn was_touched(&self, page: u64) -> bool {
        is_touched(&self.records.touched, page)
    }

    fn note_touched(&mut self, page: u64) {
        if let Some(word) = self.records.touched.get_mut((page / 64) as usize) {
            *word |= 1 << (page % 64);
        }
        self.touched += 1;
    }

    fn note_readable(&mut self, page: u64) {
        self.readable += 1;
        if self.window.is_some() {
            self.records.clock.insert(page as u32);
        }
    }
}

fn page_range(first: u64, count: u64) -> FrameRun {
    FrameRun::new(Frame(first), FrameCount(count))
}

fn is_touched(touched: &[u64], page: u64) -> bool {
    let word = touched.get((page / 64) as usize).copied();
    word.unwrap_or(0) & 1 << (page % 64) != 0
}
