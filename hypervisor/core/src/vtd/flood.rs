//! How many faults are told, and when a device has caused too many.
//!
//! [`Floods`] sees every fault and answers with a [`Verdict`]; applying it (telling, turning bus mastering off, taking the
//! device out of its domain) is the caller's. It holds a fixed number of sources: a device that makes up further ones
//! only evicts those that were quiet longest, and all together share one budget of reports.

use crate::pci::Address;

/// What becomes of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is told, with how many of its source were not told since the last one that was.
    Tell {
        /// How many were not.
        untold: u64,
    },
    /// It is counted only.
    Count,
    /// The source is cut off now.
    CutOff {
        /// How many faults of it there were within the period.
        faults: u64,
    },
    /// The source was cut off before; what comes now was on its way.
    WasCutOff,
}

/// The limits, with times in the caller's unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FloodLimits {
    /// The length of a period.
    pub period: u64,
    /// How many faults of one source within a period cut it off.
    pub cut_off: u64,
    /// How many are told within a period, of all sources.
    pub told: u64,
    /// How many of them of one source: the others are to be heard, too.
    pub told_of_one: u64,
}

impl FloodLimits {
    /// How often units are looked at in a second, at least.
    pub const LOOKS_PER_SECOND: u64 = 500;
    /// A unit with one fault record shows one fault a look, whatever a device does: well below that.
    const CUT_OFF_PER_SECOND: u64 = Self::LOOKS_PER_SECOND / 4;

    /// What holds on a machine whose clock counts `second` in a second.
    #[must_use]
    pub const fn of_a_second(second: u64) -> Self {
        Self {
            period: second,
            cut_off: Self::CUT_OFF_PER_SECOND,
            told: 32,
            told_of_one: 8,
        }
    }
}

/// Sources that are watched at once.
const SOURCES: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Watched {
    source: Address,
    /// When its period began.
    began: u64,
    /// Faults within it.
    faults: u64,
    told: u64,
    untold: u64,
    cut: bool,
}

/// Decides about every fault.
#[derive(Debug)]
pub struct Floods {
    limits: FloodLimits,
    watched: [Option<Watched>; SOURCES],
    began: u64,
    told: u64,
}

impl Floods {
    /// No faults so far.
    #[must_use]
    pub const fn new(limits: FloodLimits) -> Self {
        Self {
            limits,
            watched: [None; SOURCES],
            began: 0,
            told: 0,
        }
    }

    /// What becomes of a fault of `source` at time `now`. The first few of a source in a period are told.
    pub fn fault(&mut self, source: Address, now: u64) -> Verdict {
        let limits = self.limits;
        if now.saturating_sub(self.began) >= limits.period {
            self.began = now;
            self.told = 0;
        }
        let may_tell = self.told < limits.told;
        let Some(watched) = self.watched(source, now) else {
            return Verdict::Count;
        };
        if watched.cut {
            return Verdict::WasCutOff;
        }
        if now.saturating_sub(watched.began) >= limits.period {
            watched.began = now;
            watched.faults = 0;
            watched.told = 0;
        }
        watched.faults += 1;
        if watched.faults >= limits.cut_off {
            watched.cut = true;
            return Verdict::CutOff {
                faults: watched.faults,
            };
        }
        if watched.told >= limits.told_of_one || !may_tell {
            watched.untold += 1;
            return Verdict::Count;
        }
        watched.told += 1;
        let untold = core::mem::take(&mut watched.untold);
        self.told += 1;
        Verdict::Tell { untold }
    }

    /// Forgets a source, whose device was reset and given to somebody else.
    pub fn forgive(&mut self, source: Address) {
        for slot in &mut self.watched {
            if slot.is_some_and(|watched| watched.source == source) {
                *slot = None;
            }
        }
    }

    /// The record of `source`; a new one takes an empty place or that of the source that was quiet longest.
    fn watched(&mut self, source: Address, now: u64) -> Option<&mut Watched> {
        let same = |slot: &Option<Watched>| slot.is_some_and(|watched| watched.source == source);
        let place = match self.watched.iter().position(same) {
            Some(place) => place,
            None => {
                let (place, _) = self
                    .watched
                    .iter()
                    .enumerate()
                    // One that was cut off goes last: it is silent, or it is cut off again.
                    .min_by_key(|(_, slot)| slot.map(|watched| (watched.cut, watched.began)))?;
                *self.watched.get_mut(place)? = Some(Watched {
                    source,
                    began: now,
                    faults: 0,
                    told: 0,
                    untold: 0,
                    cut: false,
                });
                place
            }
        };
        self.watched.get_mut(place)?.as_mut()
    }
}
