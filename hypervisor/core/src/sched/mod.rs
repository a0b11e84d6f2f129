//! The scheduler of one CPU: which vCPU runs next, and until when.
//!
//! A vCPU stays on the CPU it was placed on when its VM started ([`crate::placement`]), so each CPU has one
//! [`CpuScheduler`] that nobody else touches. An *entity* is a vCPU; a *group* is all of one VM's vCPUs on this CPU. Groups
//! share the CPU by weight: each has a virtual time that passes more slowly the heavier it is, and the one that is least
//! far runs. Inside a group all vCPUs weigh the same. A group may have a cap ([`Share::cap`]), kept by a budget per window
//! of 20 ms.
//!
//! Who slept comes back at most one slice of 2 ms behind the others, however long it slept: enough to run soon, too
//! little to starve anybody. Who runs does so for 0.1 ms at least before somebody woken takes its place. Blocked entities
//! cost nothing but a look at their timers.
//!
//! Nothing allocates after [`CpuScheduler::add`], and nothing depends on the clock being sane: times are host TSC ticks,
//! compared and added without wrapping, and a clock that jumps costs accuracy only.
//!
//! All scans are linear: a CPU has a handful of vCPUs, and an index would cost more than it saves.

mod cap;
mod choose;
mod entity;
mod share;

#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use cap::CapWindow;
use core::fmt;
use entity::{Entity, Group, State};
use share::{Pace, VirtualTime};

pub use entity::GroupUsage;
pub use share::Share;

/// A vCPU, as this CPU's scheduler knows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EntityId(pub u16);

/// A VM, as this CPU's scheduler knows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupId(pub u16);

/// What the CPU does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Enter this vCPU.
    Run {
        /// Who.
        entity: EntityId,
        /// The host TSC at which to come back at the latest, charge it, and pick again.
        until: u64,
    },
    /// Nobody may run: wait for an interrupt.
    Idle {
        /// The host TSC at which to pick again; `None`: not before somebody is woken.
        until: Option<u64>,
    },
}

/// [`CpuScheduler::add`] with an entity that is there already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AlreadyScheduled(pub EntityId);

impl fmt::Display for AlreadyScheduled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "vCPU {} is scheduled on this CPU already; remove it before adding it again",
            self.0.0
        )
    }
}

impl core::error::Error for AlreadyScheduled {}

/// The scheduler's times in ticks of this machine's TSC.
#[derive(Clone, Copy, Debug)]
struct Lengths {
    /// How long one runs while another waits, and how far behind a sleeper comes back: 2 ms.
    slice: u64,
    /// How long one runs that is alone: 10 ms.
    lone: u64,
    /// The window in which a cap holds: 20 ms.
    window: u64,
    /// How far ahead of somebody just woken one must be to make way at once: 0.5 ms.
    grain: u64,
    /// How long one runs before somebody just woken can take its place: 0.1 ms. Waking costs a VM next to nothing; without this
    /// one that wakes all the time would have the others spend theirs on switches, their barriers and cold caches.
    undisturbed: u64,
    /// The shortest run a nearly spent budget is given: 50 µs. What it overdraws is carried on.
    least: u64,
}

impl Lengths {
    fn new(tsc_khz: u32) -> Self {
        let millisecond = u64::from(tsc_khz.max(1));
        Self {
            slice: 2 * millisecond,
            lone: 10 * millisecond,
            window: 20 * millisecond,
            grain: millisecond / 2,
            undisturbed: millisecond / 10,
            least: (millisecond / 20).max(1),
        }
    }
}

/// Who runs, and since when without a break.
#[derive(Clone, Copy, Debug)]
struct Current {
    entity: EntityId,
    since: u64,
}

/// The scheduler of one CPU.
#[derive(Debug)]
pub struct CpuScheduler {
    lengths: Lengths,
    groups: Vec<Group>,
    entities: Vec<Entity>,
    current: Option<Current>,
    /// How far the least far eligible group is. Never goes back.
    floor: VirtualTime,
    /// Counts changes of who runs; breaks ties in favour of who waited longest.
    turn: u64,
}

impl CpuScheduler {
    /// A scheduler without entities, for a TSC of `tsc_khz`.
    #[must_use]
    pub fn new(tsc_khz: u32) -> Self {
        Self {
            lengths: Lengths::new(tsc_khz),
            groups: Vec::new(),
            entities: Vec::new(),
            current: None,
            floor: VirtualTime::default(),
            turn: 0,
        }
    }

    /// Adds a runnable vCPU of VM `group`. The VM's share on this CPU is `share` from now on.
    ///
    /// # Errors
    /// [`AlreadyScheduled`], and nothing is changed.
    pub fn add(
        &mut self,
        entity: EntityId,
        group: GroupId,
        share: Share,
        now: u64,
    ) -> Result<(), AlreadyScheduled> {
        if self.entity(entity).is_some() {
            return Err(AlreadyScheduled(entity));
        }
        if self.group(group).is_some() {
            self.set_share(group, share, now);
        } else {
            let cap = share
                .cap()
                .map(|percent| CapWindow::new(percent, &self.lengths, now));
            self.groups.push(Group::new(group, share, cap, self.floor));
        }
        let mut vtime = self.floor;
        if let Some(group) = self.group_mut(group) {
            vtime = group.floor;
            group.entities = group.entities.saturating_add(1);
        }
        self.entities.push(Entity::new(entity, group, vtime));
        self.make_runnable(entity);
        Ok(())
    }

    /// Gives a VM another share. A group that is not there is left out.
    pub fn set_share(&mut self, group: GroupId, share: Share, now: u64) {
        let lengths = self.lengths;
        if let Some(group) = self.group_mut(group) {
            group.share = share;
            group.cap = share.cap().map(|percent| match group.cap {
                Some(window) => window.changed(percent, &lengths),
                None => CapWindow::new(percent, &lengths, now),
            });
        }
    }

    /// Takes a vCPU out; with a VM's last vCPU its accounts go too, so read [`Self::usage`] before. Whether it was there.
    pub fn remove(&mut self, entity: EntityId) -> bool {
        // Its group must not count it as runnable any more.
        self.block(entity, None);
        let Some(at) = self.entities.iter().position(|e| e.id == entity) else {
            return false;
        };
        let group = self.entities.swap_remove(at).group;
        if self.current.is_some_and(|current| current.entity == entity) {
            self.current = None;
        }
        if let Some(group) = self.group_mut(group) {
            group.entities = group.entities.saturating_sub(1);
        }
        self.groups.retain(|group| group.entities > 0);
        true
    }

    /// Makes a blocked vCPU runnable; [`Self::pick`] says whether it runs at once. Whether it was blocked.
    pub fn wake(&mut self, entity: EntityId) -> bool {
        let blocked = self
            .entity(entity)
            .is_some_and(|e| e.state != State::Runnable);
        if blocked {
            self.make_runnable(entity);
        }
        blocked
    }

    /// Lets a vCPU wait until it is woken or the host TSC reaches `wake_at`.
    pub fn block(&mut self, entity: EntityId, wake_at: Option<u64>) {
        let Some(e) = self.entity_mut(entity) else {
            return;
        };
        let was = e.state;
        e.state = State::Blocked { wake_at };
        e.woken = false;
        let group = e.group;
        if was == State::Runnable
            && let Some(group) = self.group_mut(group)
        {
            group.runnable = group.runnable.saturating_sub(1);
        }
    }

    /// Accounts `ticks` of this CPU to a vCPU and its VM.
    pub fn charge(&mut self, entity: EntityId, ticks: u64) {
        let Some(e) = self.entity_mut(entity) else {
            return;
        };
        e.vtime = e.vtime.after(ticks, Pace::EQUAL);
        e.used = e.used.saturating_add(ticks);
        let (own, id) = (e.vtime, e.group);
        let least = self
            .entities
            .iter()
            .filter(|e| e.group == id && e.state == State::Runnable)
            .fold(own, |least, e| least.min(e.vtime));
        let Some(group) = self.group_mut(id) else {
            return;
        };
        group.charge(ticks);
        group.floor = group.floor.max(least);
        let own = group.vtime;
        // The one charged counts even where it just blocked, or a sleeper would come back relative to a time long past.
        let least = self
            .eligible()
            .fold(own, |least, group| least.min(group.vtime));
        self.floor = self.floor.max(least);
    }

    /// Decides who runs now. Call it after each change, and when the time it said last has come.
    pub fn pick(&mut self, now: u64) -> Decision {
        self.wake_due(now);
        self.advance_caps(now);
        let Some(next) = self.choose(now) else {
            self.current = None;
            return Decision::Idle {
                until: self.idle_until(),
            };
        };
        self.settle(next);
        Decision::Run {
            entity: next.entity,
            until: self.run_until(next, now),
        }
    }

    /// What a VM has used of this CPU.
    #[must_use]
    pub fn usage(&self, group: GroupId) -> Option<GroupUsage> {
        self.group(group).map(|group| group.usage)
    }

    /// The ticks that a vCPU has used.
    #[must_use]
    pub fn used_ticks(&self, entity: EntityId) -> Option<u64> {
        self.entity(entity).map(|entity| entity.used)
    }

    /// How many vCPUs there are on this CPU.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entities.len()
    }

    /// Whether this CPU has no vCPU at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entities.is_empty()
    }
}

/// Looking up.
impl CpuScheduler {
    /// Groups that have somebody to run and may.
    fn eligible(&self) -> impl Iterator<Item = &Group> {
        self.groups
            .iter()
            .filter(|group| group.runnable > 0 && !group.spent())
    }

    fn make_runnable(&mut self, entity: EntityId) {
        let (floor, slice) = (self.floor, self.lengths.slice);
        let Some(group) = self.entity(entity).map(|e| e.group) else {
            return;
        };
        let Some(group) = self.group_mut(group) else {
            return;
        };
        if group.runnable == 0 {
            group.join(floor, slice);
        }
        group.runnable = group.runnable.saturating_add(1);
        let floor = group.floor;
        if let Some(e) = self.entity_mut(entity) {
            e.state = State::Runnable;
            e.woken = true;
            e.vtime = e.vtime.max(floor.before(slice, Pace::EQUAL));
        }
    }

    fn running(&self, current: Current) -> Option<(&Entity, &Group)> {
        let entity = self.entity(current.entity)?;
        Some((entity, self.group(entity.group)?))
    }

    fn entity(&self, id: EntityId) -> Option<&Entity> {
        self.entities.iter().find(|entity| entity.id == id)
    }

    fn entity_mut(&mut self, id: EntityId) -> Option<&mut Entity> {
        self.entities.iter_mut().find(|entity| entity.id == id)
    }

    fn group(&self, id: GroupId) -> Option<&Group> {
        self.groups.iter().find(|group| group.id == id)
    }

    fn group_mut(&mut self, id: GroupId) -> Option<&mut Group> {
        self.groups.iter_mut().find(|group| group.id == id)
    }
}
