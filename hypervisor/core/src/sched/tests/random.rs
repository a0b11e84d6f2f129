//! Random operations: with nothing sane about them, and on a busy machine.

use super::*;
use crate::sched::entity::{Entity, State};

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Small, or anything at all.
    fn hostile(&mut self) -> u64 {
        match self.below(4) {
            0 => self.next(),
            1 => u64::MAX - self.below(10),
            _ => self.below(50 * MS),
        }
    }
}

/// What must hold after each pick.
fn check(scheduler: &CpuScheduler, decision: Decision, now: u64) {
    for group in &scheduler.groups {
        let of = |e: &&Entity| e.group == group.id;
        let runnable = |e: &&Entity| e.state == State::Runnable;
        let entities = scheduler.entities.iter().filter(of).count();
        assert_eq!(usize::from(group.entities), entities);
        assert!(entities > 0);
        let runnable = scheduler
            .entities
            .iter()
            .filter(of)
            .filter(runnable)
            .count();
        assert_eq!(usize::from(group.runnable), runnable);
    }
    match decision {
        Decision::Run { entity, until } => {
            let entity = scheduler.entity(entity).unwrap();
            assert_eq!(entity.state, State::Runnable);
            assert!(!scheduler.group(entity.group).unwrap().spent());
            assert!(until > now || now == u64::MAX);
            assert!(until - now <= 10 * MS);
        }
        Decision::Idle { until } => {
            assert_eq!(scheduler.eligible().count(), 0);
            assert!(until.is_none_or(|until| until > now || now == u64::MAX));
        }
    }
}

#[test]
fn a_million_random_operations_keep_every_invariant() {
    let mut random = Random(0x5eed_0001);
    let mut scheduler = CpuScheduler::new(KHZ);
    let mut now = 0u64;
    let mut charged = 0u64;
    for _ in 0..1_000_000 {
        let id = EntityId(random.below(12) as u16);
        match random.below(16) {
            0 => {
                let group = GroupId(random.below(5) as u16);
                let share = Share::clamped(
                    random.below(20_000) as u32,
                    (random.below(2) == 0).then_some(random.below(120) as u8),
                );
                let there = scheduler.entity(id).is_some();
                assert_eq!(scheduler.add(id, group, share, now).is_err(), there);
            }
            1 if random.below(4) == 0 => {
                scheduler.remove(id);
            }
            2 | 3 => {
                scheduler.wake(id);
            }
            4 | 5 => {
                let at = random.hostile();
                scheduler.block(id, (random.below(3) > 0).then(|| now.saturating_add(at)));
            }
            6 => scheduler.block(id, Some(random.next())),
            7 => scheduler.charge(id, random.hostile()),
            8 if random.below(100) == 0 => now = random.hostile(),
            _ => {
                let decision = scheduler.pick(now);
                check(&scheduler, decision, now);
                if let Decision::Run { entity, until } = decision {
                    let ran = random.below(until.saturating_sub(now).max(1)) + 1;
                    scheduler.charge(entity, ran);
                    charged = charged.wrapping_add(ran);
                    now = now.saturating_add(ran);
                } else {
                    now = now.saturating_add(random.below(20 * MS));
                }
            }
        }
    }
    assert!(charged > 0);
}

#[test]
fn nobody_starves_whatever_the_others_do() {
    const ENTITIES: u16 = 8;
    let mut random = Random(0x5eed_0002);
    let mut scheduler = CpuScheduler::new(KHZ);
    // Two vCPUs a VM; weights 50, 100, 150, 200.
    for id in 0..ENTITIES {
        let group = id / 2;
        let share = weight(50 * (u32::from(group) + 1));
        scheduler
            .add(EntityId(id), GroupId(group), share, 0)
            .unwrap();
    }
    let mut now = 0;
    let mut waiting = [0u64; ENTITIES as usize];
    let mut worst = 0;
    for _ in 0..300_000 {
        let Decision::Run { entity, until } = scheduler.pick(now) else {
            now += MS;
            continue;
        };
        let at = usize::from(entity.0);
        worst = worst.max(now - waiting[at]);
        let ran = (random.below(until - now) + 1).max(100).min(until - now);
        now += ran;
        scheduler.charge(entity, ran);
        waiting[at] = now;
        // Entities 0 and 1 are always busy, the lightest of all; the rest come and go.
        let id = random.below(u64::from(ENTITIES)) as u16;
        if id > 1 && scheduler.wake(EntityId(id)) {
            waiting[usize::from(id)] = now;
        }
        if entity.0 > 1 && random.below(2) == 0 {
            let sleep = now + random.below(5 * MS);
            scheduler.block(entity, Some(sleep));
            waiting[at] = sleep;
        }
    }
    // The lightest VM has a tenth, its vCPUs a twentieth each: 2 ms in 40, and as much again for those who come back.
    assert!(worst <= 80 * MS, "{} ms", worst / MS);
    let usage = scheduler.usage(GroupId(0)).unwrap();
    assert!(usage.used_ticks >= now / 10 * 9 / 10, "{usage:?} of {now}");
}
