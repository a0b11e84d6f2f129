//! What the scheduler knows of a vCPU ([`Entity`]) and of a VM on this CPU ([`Group`]).

use super::cap::CapWindow;
use super::share::{Pace, Share, VirtualTime};
use super::{EntityId, GroupId};

/// What a VM has used of one CPU.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct GroupUsage {
    /// Ticks charged to it.
    pub used_ticks: u64,
    /// Ticks in which it wanted to run and its cap forbade it.
    pub capped_ticks: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Runnable,
    Blocked { wake_at: Option<u64> },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Entity {
    pub(super) id: EntityId,
    pub(super) group: GroupId,
    pub(super) state: State,
    /// Woken and not run since.
    pub(super) woken: bool,
    /// How far it is beside its VM's other vCPUs.
    pub(super) vtime: VirtualTime,
    pub(super) turn: u64,
    pub(super) used: u64,
}

impl Entity {
    /// One that is blocked and due at once.
    pub(super) const fn new(id: EntityId, group: GroupId, vtime: VirtualTime) -> Self {
        Self {
            id,
            group,
            state: State::Blocked { wake_at: None },
            woken: false,
            vtime,
            turn: 0,
            used: 0,
        }
    }

    pub(super) const fn wake_at(&self) -> Option<u64> {
        match self.state {
            State::Runnable => None,
            State::Blocked { wake_at } => wake_at,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    pub(super) id: GroupId,
    pub(super) share: Share,
    pub(super) cap: Option<CapWindow>,
    /// How far it is beside the other groups.
    pub(super) vtime: VirtualTime,
    /// How far its least far runnable entity is. Never goes back.
    pub(super) floor: VirtualTime,
    pub(super) turn: u64,
    pub(super) entities: u16,
    pub(super) runnable: u16,
    /// Since when its cap has kept it from running, up to the last look.
    pub(super) held_since: Option<u64>,
    pub(super) usage: GroupUsage,
}

impl Group {
    pub(super) fn new(
        id: GroupId,
        share: Share,
        cap: Option<CapWindow>,
        vtime: VirtualTime,
    ) -> Self {
        Self {
            id,
            share,
            cap,
            vtime,
            floor: VirtualTime::default(),
            turn: 0,
            entities: 0,
            runnable: 0,
            held_since: None,
            usage: GroupUsage::default(),
        }
    }

    pub(super) const fn pace(&self) -> Pace {
        self.share.pace()
    }

    pub(super) fn charge(&mut self, ticks: u64) {
        self.vtime = self.vtime.after(ticks, self.pace());
        self.usage.used_ticks = self.usage.used_ticks.saturating_add(ticks);
        if let Some(cap) = &mut self.cap {
            cap.charge(ticks);
        }
    }

    /// Whether its budget for this window is used up.
    pub(super) fn spent(&self) -> bool {
        self.cap.is_some_and(|cap| cap.left() == 0)
    }

    /// When a spent budget is renewed.
    pub(super) fn reopens(&self) -> u64 {
        self.cap.map_or(0, |cap| cap.reopens())
    }

    /// Comes back among the eligible: at most `slice` ticks of its own behind them, whatever it missed.
    pub(super) fn join(&mut self, floor: VirtualTime, slice: u64) {
        self.vtime = self.vtime.max(floor.before(slice, self.pace()));
    }
}
