//! Looking at a space: how much is where, by the ledger, and whether what lies in a sealed frame is what was sealed there.

use super::leave::STRETCH;
use super::{Sealer, Space};
use crate::ledger::State;
use crate::secmem::pages::PageMap;

/// How much is where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Survey {
    /// Pages that were ever used.
    pub touched: u64,
    /// Of these, those that are sealed, by the ledger.
    pub sealed: u64,
    /// Of these, those that are readable, by the ledger.
    pub readable: u64,
}

impl Space {
    /// Counts by the ledger, page by page, what is sealed and what is readable of what was used.
    pub fn survey(&self, pages: PageMap<'_>, sealer: &mut impl Sealer) -> Survey {
        let mut survey = Survey {
            touched: self.touched,
            sealed: 0,
            readable: 0,
        };
        // A stretch at a time: the ledger is everybody's, and nothing of the VM's changes its state meanwhile.
        for first in (0..pages.pages()).step_by(STRETCH) {
            let stretch = first..pages.pages().min(first + STRETCH as u64);
            sealer.books(|ledger, _| {
                for page in stretch.filter(|page| self.was_touched(*page)) {
                    let info = pages.frame(page).and_then(|run| ledger.info(run.first));
                    match info.map(|info| info.state) {
                        Some(State::Sealed) => survey.sealed += 1,
                        _ => survey.readable += 1,
                    }
                }
            });
        }
        survey
    }

    /// Whether the page is sealed and what lies in its frame is what was sealed there, as its tag tells; `None` where
    /// it is not sealed. It stays sealed.
    pub fn check(&self, page: u64, pages: PageMap<'_>, sealer: &mut impl Sealer) -> Option<bool> {
        let run = pages.frame(page)?;
        let is_sealed = sealer.books(|ledger, _| {
            ledger
                .info(run.first)
                .is_some_and(|info| info.state == State::Sealed)
        });
        if !is_sealed {
            return None;
        }
        let place = self.place(page, run.first, pages, sealer);
        let right = sealer
            .books(|ledger, _| ledger.grant_inspect(self.vm, run))
            .ok()?;
        let (is_whole, right) = sealer.verify(place, self.tag(page), right);
        sealer.books(|ledger, _| ledger.surrender(right));
        Some(is_whole)
    }
}
