//! Simulations of one CPU: shares, caps, latency.

mod random;

use super::*;

/// Ticks of a millisecond.
const MS: u64 = 100_000;
const KHZ: u32 = MS as u32;

/// What a simulated vCPU does.
#[derive(Clone, Copy)]
enum Behaviour {
    Busy,
    /// Computes, sleeps by its timer, and so on.
    Timer {
        run: u64,
        sleep: u64,
    },
}

struct Actor {
    id: EntityId,
    behaviour: Behaviour,
    left: u64,
    due: Option<u64>,
    used: u64,
    worst_wait: u64,
}

struct Machine {
    scheduler: CpuScheduler,
    actors: Vec<Actor>,
    now: u64,
    idle: u64,
    picks: u64,
    /// Ticks the host itself takes for each decision, charged to nobody.
    overhead: u64,
}

impl Machine {
    fn new() -> Self {
        Self {
            scheduler: CpuScheduler::new(KHZ),
            actors: Vec::new(),
            now: 12_345,
            idle: 0,
            picks: 0,
            overhead: 0,
        }
    }

    fn add(&mut self, id: u16, group: u16, share: Share, behaviour: Behaviour) {
        let id = EntityId(id);
        self.scheduler
            .add(id, GroupId(group), share, self.now)
            .unwrap();
        let left = match behaviour {
            Behaviour::Busy => u64::MAX,
            Behaviour::Timer { run, .. } => run,
        };
        self.actors.push(Actor {
            id,
            behaviour,
            left,
            due: Some(self.now),
            used: 0,
            worst_wait: 0,
        });
    }

    fn run(&mut self, ticks: u64) {
        let end = self.now + ticks;
        while self.now < end {
            self.picks += 1;
            self.now += self.overhead;
            match self.scheduler.pick(self.now) {
                Decision::Idle { until } => {
                    let until = until.unwrap_or(end).min(end);
                    assert!(until > self.now);
                    self.idle += until - self.now;
                    self.now = until;
                }
                Decision::Run { entity, until } => {
                    assert!(until > self.now);
                    let actor = self.actors.iter_mut().find(|a| a.id == entity).unwrap();
                    if let Some(due) = actor.due.take() {
                        actor.worst_wait = actor.worst_wait.max(self.now - due);
                    }
                    let ran = (until.min(end) - self.now).min(actor.left);
                    actor.used += ran;
                    self.now += ran;
                    self.scheduler.charge(entity, ran);
                    if let Behaviour::Timer { run, sleep } = actor.behaviour {
                        actor.left -= ran;
                        if actor.left == 0 {
                            actor.left = run;
                            actor.due = Some(self.now + sleep);
                            self.scheduler.block(entity, Some(self.now + sleep));
                        }
                    }
                }
            }
        }
    }

    /// The first run after an addition has no claim to be soon.
    fn forget_waits(&mut self) {
        for actor in &mut self.actors {
            actor.worst_wait = 0;
        }
    }

    fn used(&self, id: u16) -> u64 {
        self.actors
            .iter()
            .find(|a| a.id == EntityId(id))
            .unwrap()
            .used
    }

    fn worst_wait(&self, id: u16) -> u64 {
        self.actors
            .iter()
            .find(|a| a.id == EntityId(id))
            .unwrap()
            .worst_wait
    }
}

fn weight(weight: u32) -> Share {
    Share::clamped(weight, None)
}

fn capped(weight: u32, percent: u8) -> Share {
    Share::clamped(weight, Some(percent))
}

/// Whether `a` is `factor` times `b`, to `percent`.
#[track_caller]
fn assert_ratio(a: u64, b: u64, factor: f64, percent: f64) {
    let ratio = a as f64 / b as f64 / factor;
    assert!(
        (ratio - 1.0).abs() * 100.0 <= percent,
        "{a} : {b} is {ratio} times what it should be"
    );
}

#[test]
fn busy_vms_share_by_weight() {
    for (heavy, light) in [(200, 100), (2, 1), (10_000, 5_000), (300, 100), (7, 5)] {
        let mut machine = Machine::new();
        machine.add(1, 1, weight(heavy), Behaviour::Busy);
        machine.add(2, 2, weight(light), Behaviour::Busy);
        machine.run(1_000 * MS);
        assert_ratio(
            machine.used(1),
            machine.used(2),
            f64::from(heavy) / f64::from(light),
            1.0,
        );
        assert_eq!(machine.idle, 0);
    }
}

#[test]
fn an_interactive_vm_does_not_bend_the_ratio_of_others() {
    let mut machine = Machine::new();
    machine.add(1, 1, weight(200), Behaviour::Busy);
    machine.add(2, 2, weight(100), Behaviour::Busy);
    let interactive = Behaviour::Timer {
        run: MS / 5,
        sleep: 3 * MS + 17,
    };
    machine.add(3, 3, weight(100), interactive);
    machine.run(10 * MS);
    machine.forget_waits();
    machine.run(1_990 * MS);
    assert_ratio(machine.used(1), machine.used(2), 2.0, 1.0);
    // It wants a sixteenth, less than its share, so it gets what it wants, soon.
    assert_ratio(machine.used(3) * 16, 2_000 * MS, 1.0, 10.0);
    assert!(machine.worst_wait(3) <= MS / 2, "{}", machine.worst_wait(3));
}

#[test]
fn a_vm_with_more_vcpus_gets_no_more() {
    let mut machine = Machine::new();
    machine.add(1, 1, weight(100), Behaviour::Busy);
    machine.add(2, 1, weight(100), Behaviour::Busy);
    machine.add(3, 2, weight(100), Behaviour::Busy);
    machine.run(1_000 * MS);
    assert_ratio(machine.used(1), machine.used(2), 1.0, 1.0);
    assert_ratio(machine.used(1) + machine.used(2), machine.used(3), 1.0, 1.0);
}

#[test]
fn a_cap_holds_over_each_second_and_is_not_bursty() {
    for percent in [1, 5, 25, 50, 99] {
        let mut machine = Machine::new();
        machine.overhead = 7;
        machine.add(1, 1, capped(100, percent), Behaviour::Busy);
        machine.run(40 * MS);
        for _ in 0..3 {
            let before = machine.used(1);
            machine.run(1_000 * MS);
            let used = machine.used(1) - before;
            assert_ratio(used * 100, 1_000 * MS, f64::from(percent), 1.0);
        }
        for _ in 0..20 {
            let before = machine.used(1);
            machine.run(40 * MS);
            assert!(machine.used(1) - before <= 40 * MS * u64::from(percent) / 100 + MS);
        }
        let usage = machine.scheduler.usage(GroupId(1)).unwrap();
        assert_eq!(usage.used_ticks, machine.used(1));
        assert_eq!(
            machine.scheduler.used_ticks(EntityId(1)),
            Some(machine.used(1))
        );
        assert_ratio(usage.capped_ticks, machine.idle, 1.0, 1.0);
    }
}

#[test]
fn what_is_overdrawn_is_paid_back() {
    let mut scheduler = CpuScheduler::new(KHZ);
    let (id, mut now, mut used) = (EntityId(1), 0, 0);
    scheduler.add(id, GroupId(1), capped(100, 25), now).unwrap();
    // The CPU comes back 3 ms late each time.
    while now < 10_000 * MS {
        match scheduler.pick(now) {
            Decision::Run { until, .. } => {
                let ran = until + 3 * MS - now;
                scheduler.charge(id, ran);
                used += ran;
                now += ran;
            }
            Decision::Idle { until } => now = until.unwrap(),
        }
    }
    assert_ratio(used * 4, now, 1.0, 1.0);
}

#[test]
fn a_vm_with_two_vcpus_has_one_cap() {
    let mut machine = Machine::new();
    machine.add(1, 1, capped(100, 25), Behaviour::Busy);
    machine.add(2, 1, capped(100, 25), Behaviour::Busy);
    machine.run(1_000 * MS);
    assert_ratio(
        (machine.used(1) + machine.used(2)) * 4,
        1_000 * MS,
        1.0,
        1.0,
    );
    assert_ratio(machine.used(1), machine.used(2), 1.0, 2.0);
}

#[test]
fn caps_and_weights_hold_together() {
    let mut machine = Machine::new();
    // Its weight would give it two fifths.
    machine.add(1, 1, capped(200, 25), Behaviour::Busy);
    machine.add(2, 2, weight(200), Behaviour::Busy);
    machine.add(3, 3, weight(100), Behaviour::Busy);
    machine.run(1_000 * MS);
    assert_ratio(machine.used(1) * 4, 1_000 * MS, 1.0, 1.0);
    assert_ratio(machine.used(2), machine.used(3), 2.0, 1.0);
    assert_eq!(machine.idle, 0);
}

#[test]
fn a_cap_above_its_share_changes_nothing() {
    let mut machine = Machine::new();
    machine.add(1, 1, capped(100, 60), Behaviour::Busy);
    machine.add(2, 2, weight(100), Behaviour::Busy);
    machine.run(1_000 * MS);
    assert_ratio(machine.used(1), machine.used(2), 1.0, 1.0);
}

#[test]
fn the_idle_cost_nothing() {
    let mut machine = Machine::new();
    machine.add(1, 1, weight(100), Behaviour::Busy);
    for id in 2..10 {
        machine.add(id, id, weight(10_000), Behaviour::Busy);
        machine.scheduler.block(EntityId(id), None);
    }
    machine.run(1_000 * MS);
    assert_eq!(machine.used(1), 1_000 * MS);
    assert!(machine.picks <= 101, "{} decisions", machine.picks);
    machine.scheduler.block(EntityId(1), None);
    assert_eq!(
        machine.scheduler.pick(machine.now),
        Decision::Idle { until: None }
    );
}

#[test]
fn a_lone_vcpu_runs_long_and_another_cuts_it_short() {
    let mut scheduler = CpuScheduler::new(KHZ);
    let run = |id, until| Decision::Run {
        entity: EntityId(id),
        until,
    };
    scheduler
        .add(EntityId(1), GroupId(1), weight(100), 0)
        .unwrap();
    assert_eq!(scheduler.pick(0), run(1, 10 * MS));
    scheduler
        .add(EntityId(2), GroupId(2), weight(100), 0)
        .unwrap();
    assert_eq!(scheduler.pick(0), run(1, 2 * MS));
    scheduler.block(EntityId(2), Some(3 * MS));
    assert_eq!(scheduler.pick(0), run(1, 3 * MS));
    scheduler.charge(EntityId(1), 3 * MS);
    assert_eq!(scheduler.pick(3 * MS), run(2, 5 * MS));
}

#[test]
fn a_long_sleeper_gets_a_bounded_advantage() {
    let mut machine = Machine::new();
    machine.add(1, 1, weight(100), Behaviour::Busy);
    machine.add(2, 2, weight(100), Behaviour::Busy);
    machine.scheduler.block(EntityId(2), None);
    machine.run(60_000 * MS);
    assert!(machine.scheduler.wake(EntityId(2)));
    assert!(!machine.scheduler.wake(EntityId(2)));
    let before = (machine.used(1), machine.used(2));
    machine.run(100 * MS);
    let ran = (machine.used(1) - before.0, machine.used(2) - before.1);
    assert!(ran.1 >= ran.0, "{ran:?}");
    assert!(ran.1 - ran.0 <= 6 * MS, "{ran:?}");
}

#[test]
fn a_woken_vcpu_runs_at_once_beside_busy_ones() {
    let mut machine = Machine::new();
    for id in 1..=4 {
        machine.add(id, id, weight(1_000), Behaviour::Busy);
    }
    let rare = Behaviour::Timer {
        run: MS / 10,
        sleep: 50 * MS,
    };
    machine.add(5, 5, weight(1_000), rare);
    // Inside a VM, too.
    machine.add(6, 1, weight(1_000), rare);
    machine.run(100 * MS);
    machine.forget_waits();
    machine.run(5_000 * MS);
    assert!(machine.worst_wait(5) <= MS / 2, "{}", machine.worst_wait(5));
    // Its VM has no priority over the other four, so their slices come first.
    assert!(
        machine.worst_wait(6) <= 10 * MS,
        "{}",
        machine.worst_wait(6)
    );
}

#[test]
fn who_wakes_all_the_time_lets_others_run_undisturbed_for_a_while() {
    let mut machine = Machine::new();
    for id in 1..=2 {
        machine.add(id, id, weight(100), Behaviour::Busy);
    }
    // Heavy, so that what it uses never sets it back.
    for id in 3..=5 {
        let restless = Behaviour::Timer { run: 10, sleep: 90 };
        machine.add(id, id, weight(10_000), restless);
    }
    machine.run(10 * MS);
    machine.forget_waits();
    let before = machine.scheduler.turn;
    machine.run(1_000 * MS);
    let switches = machine.scheduler.turn - before;
    // Each turn of a busy one is followed by at most one of each of the others.
    assert!(switches <= 4 * 10_000 + 100, "{switches} switches");
    assert_ratio(machine.used(1), machine.used(2), 1.0, 2.0);
    // It still is nobody's loss to wait: the restless run within that time and a slice of one another.
    assert!(machine.worst_wait(3) <= MS / 5, "{}", machine.worst_wait(3));
}

#[test]
fn a_wake_up_takes_the_cpu_once_the_turn_was_long_enough() {
    let mut scheduler = CpuScheduler::new(KHZ);
    let run = |id, until| Decision::Run {
        entity: EntityId(id),
        until,
    };
    for id in 1..=2 {
        scheduler
            .add(EntityId(id), GroupId(id), weight(100), 0)
            .unwrap();
    }
    scheduler.block(EntityId(2), None);
    assert_eq!(scheduler.pick(0), run(1, 10 * MS));
    scheduler.charge(EntityId(1), 10 * MS);
    assert_eq!(scheduler.pick(10 * MS), run(1, 20 * MS));
    assert!(scheduler.wake(EntityId(2)));
    let soon = 10 * MS + MS / 10;
    assert_eq!(scheduler.pick(10 * MS + 1), run(1, soon));
    assert_eq!(scheduler.pick(soon - 1), run(1, soon));
    assert_eq!(scheduler.pick(soon), run(2, soon + 2 * MS));
}

#[test]
fn sleeping_often_gains_nothing() {
    let mut machine = Machine::new();
    machine.add(1, 1, weight(100), Behaviour::Busy);
    let sly = Behaviour::Timer { run: MS, sleep: 50 };
    machine.add(2, 2, weight(100), sly);
    machine.run(1_000 * MS);
    assert!(machine.used(2) <= 510 * MS, "{}", machine.used(2));
}

#[test]
fn a_light_vm_that_ran_alone_is_not_made_to_pay() {
    let mut machine = Machine::new();
    machine.add(1, 1, weight(1), Behaviour::Busy);
    machine.add(2, 2, weight(100), Behaviour::Busy);
    machine.scheduler.block(EntityId(2), None);
    machine.run(1_000 * MS);
    // Blocked right after being charged, before anybody looked.
    machine.scheduler.block(EntityId(1), None);
    machine.scheduler.wake(EntityId(2));
    machine.scheduler.wake(EntityId(1));
    let before = machine.used(1);
    machine.run(1_010 * MS);
    assert!(machine.used(1) > before + 5 * MS);
}

#[test]
fn shares_change_while_running() {
    let mut machine = Machine::new();
    machine.add(1, 1, weight(100), Behaviour::Busy);
    machine.add(2, 2, weight(100), Behaviour::Busy);
    machine.run(500 * MS);
    machine
        .scheduler
        .set_share(GroupId(1), capped(100, 10), machine.now);
    let before = machine.used(1);
    machine.run(1_000 * MS);
    assert_ratio((machine.used(1) - before) * 10, 1_000 * MS, 1.0, 2.0);
    machine
        .scheduler
        .set_share(GroupId(1), weight(300), machine.now);
    machine.run(50 * MS);
    let before = (machine.used(1), machine.used(2));
    machine.run(1_000 * MS);
    assert_ratio(
        machine.used(1) - before.0,
        machine.used(2) - before.1,
        3.0,
        1.0,
    );
}

#[test]
fn a_removed_vcpu_leaves_nothing_behind() {
    let mut scheduler = CpuScheduler::new(KHZ);
    scheduler
        .add(EntityId(1), GroupId(1), weight(100), 0)
        .unwrap();
    scheduler
        .add(EntityId(2), GroupId(1), weight(100), 0)
        .unwrap();
    assert_eq!(
        scheduler.add(EntityId(2), GroupId(7), weight(100), 0),
        Err(AlreadyScheduled(EntityId(2)))
    );
    assert_eq!(scheduler.usage(GroupId(7)), None);
    scheduler.pick(0);
    assert!(scheduler.remove(EntityId(1)));
    assert!(!scheduler.remove(EntityId(1)));
    assert_eq!(
        scheduler.pick(0),
        Decision::Run {
            entity: EntityId(2),
            until: 10 * MS
        }
    );
    assert!(scheduler.remove(EntityId(2)));
    assert!(scheduler.is_empty());
    assert_eq!(scheduler.usage(GroupId(1)), None);
    assert_eq!(scheduler.pick(1), Decision::Idle { until: None });
}
