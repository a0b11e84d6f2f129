//! What views mean, without tables: for every page, who had the last word.

use crate::ept::EptPerms;

use super::ViewId;

/// What a page shows: the VM's frame, by its number within the VM's, and what may be done with it.
pub(super) type Seen = Option<(u64, EptPerms)>;

#[derive(Clone, Copy)]
pub(super) enum Word {
    /// In the base: mapped from this frame on. In a view: remapped.
    Frames(u64, EptPerms),
    /// In the base: permissions. In a view: at most these.
    Perms(EptPerms),
    /// In the base: unmapped. In a view: no override.
    Nothing,
}

/// Words on ranges of pages; the last one on a page counts.
#[derive(Clone, Default)]
pub(super) struct History(Vec<(u64, u64, Word)>);

impl History {
    pub(super) fn say(&mut self, page: u64, count: u64, word: Word) {
        self.0.push((page, page + count, word));
    }

    /// The last word on `page` and how far into its range that is.
    fn last(&self, page: u64) -> (u64, Word) {
        let word = self
            .0
            .iter()
            .rev()
            .find(|(first, end, _)| (*first..*end).contains(&page));
        word.map_or((0, Word::Nothing), |(first, _, word)| (page - first, *word))
    }

    /// What the base shows at `page`.
    fn base(&self, page: u64) -> Seen {
        let mut perms = None;
        for (first, end, word) in self.0.iter().rev() {
            if !(*first..*end).contains(&page) {
                continue;
            }
            match *word {
                Word::Nothing => return None,
                Word::Perms(changed) => perms = perms.or(Some(changed)),
                Word::Frames(frame, mapped) => {
                    return Some((frame + (page - first), perms.unwrap_or(mapped)));
                }
            }
        }
        None
    }
}

#[derive(Clone)]
pub(super) struct ViewModel {
    pub(super) id: ViewId,
    pub(super) default: EptPerms,
    pub(super) overrides: History,
}

#[derive(Clone, Default)]
pub(super) struct Model {
    pub(super) base: History,
    pub(super) views: Vec<ViewModel>,
}

impl Model {
    pub(super) fn base(&self, page: u64) -> Seen {
        self.base.base(page)
    }

    pub(super) fn view(&self, view: &ViewModel, page: u64) -> Seen {
        let limited = |limit: EptPerms| {
            let (frame, perms) = self.base(page)?;
            let perms = perms & limit;
            (!perms.is_empty()).then_some((frame, perms))
        };
        match view.overrides.last(page) {
            (into, Word::Frames(first, perms)) => Some((first + into, perms)),
            (_, Word::Perms(limit)) => limited(limit),
            (_, Word::Nothing) => limited(view.default),
        }
    }

    /// Whether nothing is mapped in the base from `page` on.
    pub(super) fn is_free(&self, page: u64, count: u64) -> bool {
        self.first_mapped(page, count).is_none()
    }

    pub(super) fn first_mapped(&self, page: u64, count: u64) -> Option<u64> {
        (page..page + count).find(|page| self.base(*page).is_some())
    }

    /// How many pages from `page` on, up to `most`, are mapped to frames that follow one another.
    pub(super) fn run(&self, page: u64, most: u64) -> u64 {
        let Some((frame, _)) = self.base(page) else {
            return 0;
        };
        let follows =
            |into: &u64| self.base(page + into).map(|(frame, _)| frame) == Some(frame + into);
        (0..most).take_while(follows).count() as u64
    }

    /// Every page at which something was said to begin or end.
    pub(super) fn borders(&self) -> impl Iterator<Item = u64> {
        let views = self.views.iter().map(|view| &view.overrides);
        let all = views.chain([&self.base]);
        all.flat_map(|history| history.0.iter().flat_map(|(first, end, _)| [*first, *end]))
    }
}
