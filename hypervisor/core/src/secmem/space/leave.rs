//! From readable to sealed: which pages leave the view together, and what becomes of each.

use super::{BATCH, Mapper, Sealer, Space, is_touched};
use crate::addr::FrameCount;
use crate::ept::Unmapped;
use crate::ledger::{FrameRun, Ledger, State};
use crate::secmem::clock::Look;
use crate::secmem::pages::PageMap;
use crate::secmem::refusal::Refusal;
use crate::table::{Flushed, TableMemory};

/// Pages that are looked at while the ledger is locked.
pub(super) const STRETCH: usize = 64;
/// Pages that a call of [`Space::seal_some`] looks at.
const SWEEP: u64 = 4096;

/// Pages on their way to be sealed.
type Batch = [Option<Leaving>; BATCH];

const NOBODY: Batch = [const { None }; BATCH];

/// A page on its way to be sealed.
enum Leaving {
    /// Out of the view, not flushed yet.
    Mapped(u64, Unmapped),
    /// It was in no view.
    Bare(u64),
}

/// Which pages may be chosen to be sealed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// Those that were not used lately.
    Unused,
    /// All.
    Any,
}

impl Space {
    /// Seals pages until `count` more may be readable, as far as any can be sealed.
    pub(super) fn make_room(
        &mut self,
        count: u64,
        mapper: &mut Mapper<'_>,
        sealer: &mut impl Sealer,
    ) -> Result<(), Refusal> {
        let Some(window) = self.window else {
            return Ok(());
        };
        let beyond = (self.readable + count).saturating_sub(window.0);
        if beyond == 0 {
            return Ok(());
        }
        // More than is needed, so that the next ones need no flush; of a small window not too much of it.
        let wanted = beyond.max((window.0 / 16).min(BATCH as u64));
        self.seal_chosen(wanted, Choice::Unused, mapper, sealer)?;
        Ok(())
    }

    /// Seals up to [`BATCH`] readable pages, whichever, of a VM that is not to run; false once none is left, or all that are left are
    /// pinned.
    ///
    /// # Errors
    /// [`Refusal`]: the VM cannot go on.
    pub fn seal_some(
        &mut self,
        mapper: &mut Mapper<'_>,
        sealer: &mut impl Sealer,
    ) -> Result<bool, Refusal> {
        if self.window.is_some() {
            return Ok(self.seal_chosen(BATCH as u64, Choice::Any, mapper, sealer)? > 0);
        }
        let mut leaving = NOBODY;
        let mut filled = 0;
        let mut pinned = 0;
        let (map, touched) = (mapper.pages, &self.records.touched);
        let sweep = &mut self.sweep;
        let end = (*sweep + SWEEP).min(map.pages());
        let mut taken = Ok(());
        // A stretch at a time: the ledger is everybody's.
        while taken.is_ok() && *sweep < end && filled < BATCH {
            let stretch = (*sweep + STRETCH as u64).min(end);
            taken = sealer.books(|ledger, tables| {
                while *sweep < stretch
                    && let Some(place) = leaving.get_mut(filled)
                {
                    let page = *sweep;
                    *sweep += 1;
                    let Some(run) = map.frame(page).filter(|_| is_touched(touched, page)) else {
                        continue;
                    };
                    match holds(ledger, run, map.is_ram(page)) {
                        Holds::Readable => {
                            *place = Some(unmap(page, map, mapper, tables)?);
                            filled += 1;
                        }
                        Holds::Pinned => pinned += 1,
                        Holds::Sealed => {}
                    }
                }
                Ok::<_, Refusal>(())
            });
        }
        self.counts.pinned += pinned;
        self.seal(leaving, mapper, sealer)?;
        taken?;
        let is_more = self.sweep < map.pages();
        if !is_more {
            self.sweep = 0;
        }
        Ok(is_more)
    }

    /// Seals pages that the clock chooses; how many.
    fn seal_chosen(
        &mut self,
        wanted: u64,
        choice: Choice,
        mapper: &mut Mapper<'_>,
        sealer: &mut impl Sealer,
    ) -> Result<u64, Refusal> {
        let mut leaving = NOBODY;
        let mut pinned = 0;
        let mut chosen = 0;
        let wanted = BATCH.min(wanted as usize);
        let map = mapper.pages;
        let clock = &mut self.records.clock;
        let mut patience = clock.patience();
        let mut taken = Ok(());
        // A stretch at a time: the ledger is everybody's.
        while taken.is_ok() && patience > 0 && chosen < wanted {
            let stretch = patience.min(STRETCH);
            patience -= stretch;
            taken = sealer.books(|ledger, tables| {
                for _ in 0..stretch {
                    let Some(place) = leaving.get_mut(chosen).filter(|_| chosen < wanted) else {
                        break;
                    };
                    let page = clock.advance(|page| {
                        let page = u64::from(page);
                        let is_ram = map.is_ram(page);
                        match map.frame(page).map(|run| holds(ledger, run, is_ram)) {
                            Some(Holds::Readable) => {}
                            _ => {
                                pinned += 1;
                                return Look::Pinned;
                            }
                        }
                        let was_used = choice == Choice::Unused
                            && is_ram
                            && mapper.views.take_accessed(tables, map.gpa(page));
                        if was_used { Look::Used } else { Look::Idle }
                    });
                    if let Some(page) = page {
                        let unmapped = unmap(page.into(), map, mapper, tables);
                        *place = Some(unmapped.inspect_err(|_| clock.insert(page))?);
                        chosen += 1;
                    }
                }
                Ok::<_, Refusal>(())
            });
        }
        self.counts.pinned += pinned;
        self.seal(leaving, mapper, sealer)?;
        taken.map(|()| chosen as u64)
    }

    /// Seals pages that were taken out of the view.
    fn seal(
        &mut self,
        leaving: Batch,
        mapper: &mut Mapper<'_>,
        sealer: &mut impl Sealer,
    ) -> Result<(), Refusal> {
        if leaving.iter().all(Option::is_none) {
            return Ok(());
        }
        let proof = leaving
            .iter()
            .flatten()
            .any(|page| matches!(page, Leaving::Mapped(..)))
            .then(|| mapper.views.flush(sealer));
        self.counts.flushes += u64::from(proof.is_some());
        let mut outcome = Ok(());
        for leaving in leaving.into_iter().flatten() {
            let (page, unmapped) = match leaving {
                Leaving::Mapped(page, unmapped) => (page, Some(unmapped)),
                Leaving::Bare(page) => (page, None),
            };
            let proven = unmapped.zip(proof.as_ref());
            let sealed = self.seal_page(page, proven, mapper.pages, sealer);
            if sealed.is_err() && self.window.is_some() {
                // It is in the clear, and counted there.
                self.records.clock.insert(page as u32);
            }
            // The others' rights are given back all the same.
            outcome = outcome.and(sealed);
        }
        outcome
    }

    /// Seals one page, which was taken out of the view with the proof that the view was flushed since.
    fn seal_page(
        &mut self,
        page: u64,
        unmapped: Option<(Unmapped, &Flushed)>,
        pages: PageMap<'_>,
        sealer: &mut impl Sealer,
    ) -> Result<(), Refusal> {
        let run = pages.frame(page).ok_or(Refusal::NoPage)?;
        let (vm, key) = (self.vm, self.key);
        let right = sealer.books(|ledger, tables| {
            if let Some((unmapped, proof)) = unmapped {
                match unmapped.flushed(proof, tables) {
                    Ok((_, right)) => ledger.surrender(right),
                    Err(_) => unreachable!("the flush came after the pages were taken out"),
                }
            }
            ledger.seal(vm, run, key)
        })?;
        let place = self.place(page, run.first, pages, sealer);
        let (tag, right) = sealer.encrypt(place, right);
        if let Some(kept) = self.records.tags.get_mut(page as usize) {
            *kept = tag;
        }
        sealer.books(|ledger, _| ledger.surrender(right));
        self.readable -= 1;
        self.counts.sealed += 1;
        Ok(())
    }
}

/// What the ledger says of a page that was used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// Readable to its VM, and nobody else has a right to it.
    Readable,
    /// Readable, and somebody has a right to it: who copies, a device, a VM that it is shared with.
    Pinned,
    /// Nobody can read it.
    Sealed,
}

fn holds(ledger: &Ledger<'_>, run: FrameRun, is_ram: bool) -> Holds {
    let own = u32::from(is_ram);
    match ledger.info(run.first) {
        Some(info) if info.state == State::Sealed => Holds::Sealed,
        Some(info) if info.state == State::Clear && info.maps <= own => Holds::Readable,
        _ => Holds::Pinned,
    }
}

/// Takes the page out of the view, if it is in it.
fn unmap(
    page: u64,
    map: PageMap<'_>,
    mapper: &mut Mapper<'_>,
    tables: &mut impl TableMemory,
) -> Result<Leaving, Refusal> {
    if !map.is_ram(page) {
        return Ok(Leaving::Bare(page));
    }
    let unmapped = mapper
        .views
        .unmap_run(tables, map.gpa(page), FrameCount(1))?;
    Ok(match unmapped {
        Some(unmapped) => Leaving::Mapped(page, unmapped),
        None => Leaving::Bare(page),
    })
}
