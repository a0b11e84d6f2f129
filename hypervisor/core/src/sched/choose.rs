//! The decision itself: who runs next, whether who runs goes on, and until when that holds.

use super::entity::{Entity, Group, State};
use super::share::{Pace, VirtualTime};
use super::{CpuScheduler, Current, GroupId};

impl CpuScheduler {
    /// Wakes whose timers are due.
    pub(super) fn wake_due(&mut self, now: u64) {
        for at in 0..self.entities.len() {
            if let Some(entity) = self.entities.get(at)
                && entity.wake_at().is_some_and(|at| at <= now)
            {
                self.make_runnable(entity.id);
            }
        }
    }

    /// Opens due windows, counts the time VMs were held by their caps, and lets those released in.
    pub(super) fn advance_caps(&mut self, now: u64) {
        let (floor, slice) = (self.floor, self.lengths.slice);
        for group in &mut self.groups {
            if let Some(cap) = &mut group.cap {
                cap.advance(now);
            }
            let held = group.runnable > 0 && group.spent();
            if let Some(since) = group.held_since {
                let ticks = now.saturating_sub(since);
                group.usage.capped_ticks = group.usage.capped_ticks.saturating_add(ticks);
                if !held {
                    group.join(floor, slice);
                }
            }
            group.held_since = held.then_some(now);
        }
    }

    /// Who should run now.
    pub(super) fn choose(&self, now: u64) -> Option<Current> {
        if let Some(current) = self.current
            && self.keeps(current, now)
        {
            return Some(current);
        }
        let group = self
            .eligible()
            .min_by_key(|group| (group.vtime, group.turn))?;
        let entity = self
            .entities
            .iter()
            .filter(|e| e.group == group.id && e.state == State::Runnable)
            .min_by_key(|e| (e.vtime, e.turn))?;
        Some(Current {
            entity: entity.id,
            since: now,
        })
    }

    /// Whether who runs goes on: its slice is not over, its budget not spent, and it only just began or nobody woken is well
    /// behind it.
    fn keeps(&self, current: Current, now: u64) -> bool {
        let Some((entity, group)) = self.running(current) else {
            return false;
        };
        entity.state == State::Runnable
            && !group.spent()
            && now.checked_sub(current.since).is_some_and(|ran| {
                ran < self.lengths.undisturbed
                    || ran < self.slice(current) && !self.is_wanted(entity, group)
            })
    }

    /// Whether somebody woken is so far behind `entity`, which runs, that it makes way.
    fn is_wanted(&self, entity: &Entity, group: &Group) -> bool {
        let standing = Standing::of(entity, group);
        self.entities.iter().any(|other| {
            other.woken
                && other.state == State::Runnable
                && other.id != entity.id
                && self.precedes(other, self.lengths.grain, standing)
        })
    }

    /// Whether `other`, had it run `ticks` more, would still be behind `standing`, and may run.
    fn precedes(&self, other: &Entity, ticks: u64, standing: Standing) -> bool {
        if other.group == standing.group {
            return other.vtime.after(ticks, Pace::EQUAL) < standing.in_group;
        }
        self.group(other.group).is_some_and(|group| {
            !group.spent() && group.vtime.after(ticks, group.pace()) < standing.of_group
        })
    }

    /// Notes that `next` runs from now on.
    pub(super) fn settle(&mut self, next: Current) {
        let switched = self.current.map(|current| current.entity) != Some(next.entity);
        self.current = Some(next);
        self.turn = self.turn.saturating_add(u64::from(switched));
        let turn = self.turn;
        let Some(entity) = self.entity_mut(next.entity) else {
            return;
        };
        entity.woken = false;
        entity.turn = turn;
        let group = entity.group;
        if let Some(group) = self.group_mut(group) {
            group.turn = turn;
        }
    }

    /// How long `current` may run without a break.
    fn slice(&self, current: Current) -> u64 {
        let alone = self.eligible().all(|group| {
            !self.entities.iter().any(|e| {
                e.group == group.id && e.id != current.entity && e.state == State::Runnable
            })
        });
        if alone {
            self.lengths.lone
        } else {
            self.lengths.slice
        }
    }

    /// When `current` must come back: its slice or budget is over, or somebody else may deserve the CPU.
    pub(super) fn run_until(&self, current: Current, now: u64) -> u64 {
        let mut until = current.since.saturating_add(self.slice(current));
        let Some((entity, group)) = self.running(current) else {
            return until;
        };
        if let Some(cap) = &group.cap {
            until = until.min(now.saturating_add(cap.left().max(self.lengths.least)));
        }
        let disturbed = current.since.saturating_add(self.lengths.undisturbed);
        if self.is_wanted(entity, group) {
            until = until.min(disturbed);
        }
        // A timer or a budget is waited for where it can make a difference: would its owner then be behind?
        let then =
            |at: u64| Standing::of(entity, group).after(at.saturating_sub(now), group.pace());
        for other in &self.entities {
            if let Some(at) = other.wake_at().map(|at| at.max(disturbed))
                && at < until
                && self.precedes(other, 0, then(at))
            {
                until = at;
            }
        }
        for held in self
            .groups
            .iter()
            .filter(|group| group.held_since.is_some())
        {
            let at = held.reopens();
            if at < until && held.vtime < then(at).of_group {
                until = at;
            }
        }
        until
    }

    /// When somebody may want to run though nobody is woken.
    pub(super) fn idle_until(&self) -> Option<u64> {
        let timers = self.entities.iter().filter_map(Entity::wake_at);
        let held = self
            .groups
            .iter()
            .filter(|group| group.held_since.is_some());
        timers.chain(held.map(Group::reopens)).min()
    }
}

/// How far somebody is, beside other groups and beside the vCPUs of its own.
#[derive(Clone, Copy, Debug)]
struct Standing {
    group: GroupId,
    of_group: VirtualTime,
    in_group: VirtualTime,
}

impl Standing {
    const fn of(entity: &Entity, group: &Group) -> Self {
        Self {
            group: group.id,
            of_group: group.vtime,
            in_group: entity.vtime,
        }
    }

    const fn after(self, ticks: u64, pace: Pace) -> Self {
        Self {
            of_group: self.of_group.after(ticks, pace),
            in_group: self.in_group.after(ticks, Pace::EQUAL),
            ..self
        }
    }
}
