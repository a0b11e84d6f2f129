//! Which pages are readable, and which of them to seal next: the clock algorithm.
//!
//! The readable pages stand in a circle. A hand goes round: a page that was used since it last came by is let pass, the first
//! that was not is chosen. New pages take the places that the hand has just emptied, so they are the last it comes to.
//! (F. Corbató, "A Paging Experiment with the Multics System", 1968.)

use alloc::vec::Vec;

/// What the hand finds of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// It was not used lately.
    Idle,
    /// It was; whoever looks has made the processor note it anew.
    Used,
    /// It has to stay readable for now.
    Pinned,
}

/// A place in the circle where there is no page.
const EMPTY: u32 = u32::MAX;

/// The circle.
#[derive(Debug, Default)]
pub struct Clock {
    places: Vec<u32>,
    empty: Vec<u32>,
    hand: usize,
}

impl Clock {
    /// An empty circle with room for `pages` without asking for memory.
    #[must_use]
    pub fn with_capacity(pages: usize) -> Self {
        Self {
            places: Vec::with_capacity(pages),
            empty: Vec::with_capacity(pages),
            hand: 0,
        }
    }

    /// How many pages are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len() - self.empty.len()
    }

    /// Whether no page is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets every page, and keeps the memory.
    pub fn clear(&mut self) {
        self.places.clear();
        self.empty.clear();
        self.hand = 0;
    }

    /// Adds a page that is not in it.
    pub fn insert(&mut self, page: u32) {
        debug_assert_ne!(page, EMPTY);
        match self.empty.pop() {
            Some(place) => {
                if let Some(place) = self.places.get_mut(place as usize) {
                    *place = page;
                }
            }
            None => self.places.push(page),
        }
    }

    /// How many places the hand is to look at before it is said to find nothing: once round makes every page idle that is not used
    /// meanwhile, the second round finds them.
    #[must_use]
    pub fn patience(&self) -> usize {
        2 * self.places.len()
    }

    /// Moves the hand by one place. The page there, taken out, if `look` says that it is idle.
    pub fn advance(&mut self, look: impl FnOnce(u32) -> Look) -> Option<u32> {
        let at = self.hand;
        self.hand = if at + 1 < self.places.len() {
            at + 1
        } else {
            0
        };
        let place = self.places.get_mut(at).filter(|place| **place != EMPTY)?;
        if look(*place) != Look::Idle {
            return None;
        }
        let page = core::mem::replace(place, EMPTY);
        self.empty.push(at as u32);
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;

    /// The next page to seal, with all the patience that there is.
    fn choose(clock: &mut Clock, mut look: impl FnMut(u32) -> Look) -> Option<u32> {
        (0..clock.patience()).find_map(|_| clock.advance(&mut look))
    }

    #[test]
    fn unused_pages_go_in_the_order_in_which_they_came() {
        let mut clock = Clock::default();
        (0..4).for_each(|page| clock.insert(page));
        let order: Vec<_> = core::iter::from_fn(|| choose(&mut clock, |_| Look::Idle)).collect();
        assert_eq!(order, [0, 1, 2, 3]);
        assert!(clock.is_empty());
    }

    #[test]
    fn a_used_page_gets_a_second_chance() {
        let mut clock = Clock::default();
        (0..4).for_each(|page| clock.insert(page));
        let mut used = BTreeSet::from([0, 2]);
        let mut look = |page| {
            if used.remove(&page) {
                Look::Used
            } else {
                Look::Idle
            }
        };
        assert_eq!(choose(&mut clock, &mut look), Some(1));
        clock.insert(9);
        assert_eq!(choose(&mut clock, &mut look), Some(3));
        // 9 came after them.
        assert_eq!(choose(&mut clock, &mut look), Some(0));
    }

    #[test]
    fn pages_that_are_all_used_or_pinned_do_not_hold_the_hand_up_for_ever() {
        let mut clock = Clock::default();
        (0..3).for_each(|page| clock.insert(page));
        let mut looks = 0;
        let always = |_| {
            looks += 1;
            Look::Used
        };
        assert_eq!(choose(&mut clock, always), None);
        assert_eq!(looks, 6);
        let only_two = |page| if page == 2 { Look::Idle } else { Look::Pinned };
        assert_eq!(choose(&mut clock, only_two), Some(2));
        assert_eq!(clock.len(), 2);
        assert_eq!(choose(&mut Clock::default(), |_| Look::Idle), None);
    }

    #[test]
    fn it_holds_exactly_what_was_put_in_and_not_taken_out() {
        let mut random = crate::testing::Random(7);
        let mut clock = Clock::default();
        let mut model = BTreeSet::new();
        for page in 0..20_000 {
            clock.insert(page);
            model.insert(page);
            while model.len() > 50 || random.below(3) == 0 {
                let Some(page) = choose(&mut clock, |_| match random.below(4) {
                    0 => Look::Idle,
                    1 => Look::Pinned,
                    _ => Look::Used,
                }) else {
                    break;
                };
                assert!(model.remove(&page));
            }
            assert_eq!(clock.len(), model.len());
        }
    }
}
