//! Each policy and order by example, and a million random steps against a shell and a guest that misbehave.

use super::*;
use crate::addr::Gpa;

/// A moment, in milliseconds.
const fn at(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const TIMEOUT: Duration = Duration::from_secs(30);
const CRASH: End = End::Guest(StopReason::TripleFault);
const POWER_OFF: End = End::Guest(StopReason::PowerOff);
const RESET: End = End::Guest(StopReason::Reset);

fn stopped(policy: RestartPolicy) -> Lifecycle {
    Lifecycle::new(policy, TIMEOUT)
}

fn running(policy: RestartPolicy) -> Lifecycle {
    let mut vm = stopped(policy);
    assert_eq!(vm.order(Order::Start, at(0)), Ok(Action::LoadAndRun));
    assert_eq!(vm.started(at(0)), Action::Nothing);
    vm
}

#[test]
fn each_policy_restarts_after_the_ends_it_names() {
    use Action::{LoadAndRun, Nothing};
    let ends = [POWER_OFF, RESET, CRASH, End::Watchdog, End::Operator];
    for (policy, answers) in [
        (RestartPolicy::Never, [Nothing; 5]),
        (
            RestartPolicy::OnCrash,
            [Nothing, LoadAndRun, LoadAndRun, LoadAndRun, Nothing],
        ),
        (
            RestartPolicy::Always,
            [LoadAndRun, LoadAndRun, LoadAndRun, LoadAndRun, Nothing],
        ),
    ] {
        for (end, answer) in ends.into_iter().zip(answers) {
            let mut vm = running(policy);
            assert_eq!(vm.ended(end, at(5)), answer, "{policy} {end}");
            let state = if answer == LoadAndRun {
                State::Starting
            } else {
                State::Stopped
            };
            assert_eq!(vm.state(), state, "{policy} {end}");
        }
    }
}

#[test]
fn the_second_crash_in_a_row_waits_a_second() {
    let mut vm = running(RestartPolicy::OnCrash);
    assert_eq!(vm.ended(CRASH, at(10)), Action::LoadAndRun);
    assert_eq!(vm.started(at(20)), Action::Nothing);
    assert_eq!(vm.ended(End::Watchdog, at(30)), Action::Nothing);
    assert_eq!(vm.state(), State::BackOff { until: at(1030) });
    assert_eq!(vm.wake_at(), Some(at(1030)));
    assert_eq!(vm.tick(at(1029)), Action::Nothing);
    assert_eq!(vm.tick(at(1030)), Action::LoadAndRun);
    assert_eq!(vm.started(at(1040)), Action::Nothing);
    assert_eq!(vm.restarts(), 2);
    assert_eq!(vm.ends_in_a_row(), 2);
}

/// `count` runs that each end by `end` at once, and are followed by a start at once.
fn end_at_once(vm: &mut Lifecycle, end: End, count: u64) {
    for now in 0..count {
        assert_eq!(vm.ended(end, at(now)), Action::LoadAndRun);
        assert_eq!(vm.started(at(now)), Action::Nothing);
    }
}

#[test]
fn a_few_reboots_do_not_wait_and_do_not_clear_the_record_of_crashes() {
    let mut vm = running(RestartPolicy::OnCrash);
    end_at_once(&mut vm, CRASH, 1);
    end_at_once(&mut vm, RESET, 8);
    assert_eq!(vm.ended(CRASH, at(51)), Action::Nothing);
    assert_eq!(vm.state(), State::BackOff { until: at(1051) });
}

#[test]
fn a_vm_that_ends_itself_again_and_again_waits_as_one_that_crashes() {
    for (policy, end) in [
        (RestartPolicy::OnCrash, RESET),
        (RestartPolicy::Always, RESET),
        (RestartPolicy::Always, POWER_OFF),
    ] {
        let mut vm = running(policy);
        end_at_once(&mut vm, end, 8);
        assert_eq!(vm.ended(end, at(100)), Action::Nothing);
        assert_eq!(vm.state(), State::BackOff { until: at(1100) });
        assert_eq!(vm.ends_in_a_row(), 9);
        assert_eq!(vm.tick(at(1100)), Action::LoadAndRun);
        assert_eq!(vm.started(at(1100)), Action::Nothing);
        assert_eq!(vm.ended(end, at(1200)), Action::Nothing);
        assert_eq!(vm.state(), State::BackOff { until: at(3200) });
    }
}

#[test]
fn a_reboot_after_a_healthy_run_never_waits() {
    let mut vm = running(RestartPolicy::OnCrash);
    end_at_once(&mut vm, RESET, 8);
    for minute in 1..100 {
        assert_eq!(vm.ended(RESET, at(minute * 60_000)), Action::LoadAndRun);
        assert_eq!(vm.started(at(minute * 60_000)), Action::Nothing);
    }
}

#[test]
fn an_operators_restart_never_waits() {
    let mut vm = running(RestartPolicy::OnCrash);
    for now in 0..100 {
        assert_eq!(
            vm.order(Order::Restart, at(now)),
            Ok(Action::PressPowerButton { unpark: false })
        );
        assert_eq!(vm.ended(RESET, at(now)), Action::LoadAndRun);
        assert_eq!(vm.started(at(now)), Action::Nothing);
    }
    end_at_once(&mut vm, RESET, 8);
    assert_eq!(vm.ended(RESET, at(100)), Action::Nothing);
    assert_eq!(vm.order(Order::Restart, at(101)), Ok(Action::LoadAndRun));
    assert_eq!(vm.ends_in_a_row(), 0);
}

#[test]
fn an_operators_start_does_not_wait_and_forgives() {
    let mut vm = running(RestartPolicy::OnCrash);
    assert_eq!(vm.ended(CRASH, at(1)), Action::LoadAndRun);
    assert_eq!(vm.started(at(1)), Action::Nothing);
    assert_eq!(vm.ended(CRASH, at(2)), Action::Nothing);
    assert_eq!(vm.order(Order::Start, at(3)), Ok(Action::LoadAndRun));
    assert_eq!(vm.ends_in_a_row(), 0);
}

#[test]
fn a_stop_asks_first_and_insists_at_the_deadline() {
    let mut vm = running(RestartPolicy::Always);
    let stop = Order::Stop { hard: false };
    assert_eq!(
        vm.order(stop, at(100)),
        Ok(Action::PressPowerButton { unpark: false })
    );
    assert_eq!(vm.tick(at(30_099)), Action::Nothing);
    assert_eq!(vm.tick(at(30_100)), Action::HardStop);
    assert_eq!(vm.tick(at(40_000)), Action::Nothing, "asked once");
    assert_eq!(vm.ended(End::Operator, at(40_001)), Action::Nothing);
    assert_eq!(vm.state(), State::Stopped);
}

#[test]
fn a_guest_that_obeys_stays_stopped_under_every_policy() {
    for policy in [
        RestartPolicy::Never,
        RestartPolicy::OnCrash,
        RestartPolicy::Always,
    ] {
        for end in [POWER_OFF, RESET, CRASH, End::Watchdog] {
            let mut vm = running(policy);
            let _pressed = vm.order(Order::Stop { hard: false }, at(1)).unwrap();
            assert_eq!(vm.ended(end, at(2)), Action::Nothing);
            assert_eq!(vm.state(), State::Stopped);
        }
    }
}

#[test]
fn a_paused_vm_runs_to_notice_the_power_button() {
    let mut vm = running(RestartPolicy::OnCrash);
    assert_eq!(vm.order(Order::Pause, at(1)), Ok(Action::Park));
    assert_eq!(
        vm.order(Order::Stop { hard: false }, at(2)),
        Ok(Action::PressPowerButton { unpark: true })
    );
    assert_eq!(
        vm.order(Order::Stop { hard: true }, at(3)),
        Ok(Action::HardStop)
    );
}

#[test]
fn pause_and_resume_are_each_others_inverse() {
    let mut vm = running(RestartPolicy::OnCrash);
    assert_eq!(vm.order(Order::Pause, at(1)), Ok(Action::Park));
    assert_eq!(vm.order(Order::Resume, at(2)), Ok(Action::Unpark));
    assert_eq!(vm.state(), State::Running);
}

#[test]
fn a_restart_begins_anew_under_the_policy_never() {
    let mut vm = running(RestartPolicy::Never);
    assert_eq!(
        vm.order(Order::Restart, at(1)),
        Ok(Action::PressPowerButton { unpark: false })
    );
    assert_eq!(vm.ended(POWER_OFF, at(2)), Action::LoadAndRun);
    assert_eq!(vm.started(at(3)), Action::Nothing);
    assert_eq!(vm.restarts(), 1);
    assert_eq!(vm.ended(POWER_OFF, at(4)), Action::Nothing);
    assert_eq!(
        vm.order(Order::Restart, at(5)),
        Ok(Action::LoadAndRun),
        "a stopped VM is just started"
    );
}

#[test]
fn a_stop_overrides_a_restart_under_way_and_the_other_way_round() {
    let mut vm = running(RestartPolicy::OnCrash);
    let stop = Order::Stop { hard: false };
    let _pressed = vm.order(Order::Restart, at(1)).unwrap();
    assert_eq!(vm.order(stop, at(2)), Ok(Action::Nothing));
    assert!(vm.order(stop, at(3)).is_err());
    assert_eq!(vm.order(Order::Restart, at(4)), Ok(Action::Nothing));
    assert!(vm.order(Order::Restart, at(5)).is_err());
    assert_eq!(vm.tick(at(30_001)), Action::HardStop);
    assert_eq!(
        vm.ended(End::Operator, at(30_002)),
        Action::LoadAndRun,
        "the hard stop of a restart"
    );
}

#[test]
fn a_stop_while_loading_ends_the_vm_as_soon_as_it_runs() {
    let mut vm = stopped(RestartPolicy::Always);
    assert_eq!(vm.order(Order::Start, at(0)), Ok(Action::LoadAndRun));
    assert_eq!(
        vm.order(Order::Stop { hard: false }, at(1)),
        Ok(Action::Nothing)
    );
    assert_eq!(vm.started(at(2)), Action::HardStop);
    assert_eq!(vm.ended(End::Operator, at(3)), Action::Nothing);
    assert_eq!(vm.state(), State::Stopped);
    assert_eq!(vm.order(Order::Start, at(4)), Ok(Action::LoadAndRun));
    assert_eq!(vm.started(at(5)), Action::Nothing);
    assert_eq!(vm.state(), State::Running, "the old stop is forgotten");
}

#[test]
fn a_guest_that_cannot_be_loaded_stays_stopped() {
    let mut vm = stopped(RestartPolicy::Always);
    let _load = vm.order(Order::Start, at(0)).unwrap();
    vm.failed();
    assert_eq!(vm.state(), State::Stopped);
    assert_eq!(vm.wake_at(), None);
}

#[test]
fn only_a_vm_that_an_operator_may_want_awaits_one() {
    let mut vm = stopped(RestartPolicy::OnCrash);
    assert!(vm.awaits_operator(), "nobody started it yet");
    let _load = vm.order(Order::Start, at(0)).unwrap();
    assert!(!vm.awaits_operator());
    vm.failed();
    assert!(!vm.awaits_operator(), "it cannot be loaded");

    let mut vm = running(RestartPolicy::OnCrash);
    assert_eq!(vm.ended(POWER_OFF, at(1)), Action::Nothing);
    assert!(!vm.awaits_operator(), "it switched itself off");

    let mut vm = running(RestartPolicy::OnCrash);
    let _pressed = vm.order(Order::Stop { hard: false }, at(1)).unwrap();
    assert!(!vm.awaits_operator(), "it still runs");
    assert_eq!(vm.ended(POWER_OFF, at(2)), Action::Nothing);
    assert!(vm.awaits_operator(), "an operator stopped it");
}

#[test]
fn the_last_end_is_remembered_and_a_late_one_is_not() {
    let mut vm = running(RestartPolicy::Never);
    assert_eq!(vm.last_end(), None);
    assert_eq!(vm.ended(End::Watchdog, at(1)), Action::Nothing);
    assert_eq!(vm.ended(CRASH, at(2)), Action::Nothing);
    assert_eq!(vm.last_end(), Some(End::Watchdog));
}

#[test]
fn refusals_name_the_state_and_the_way_out() {
    let mut vm = stopped(RestartPolicy::OnCrash);
    let refusal = |vm: &mut Lifecycle, order| vm.order(order, at(1)).unwrap_err().to_string();
    for order in [Order::Pause, Order::Stop { hard: true }] {
        assert_eq!(refusal(&mut vm, order), "is not running; `start` runs it");
    }
    assert_eq!(refusal(&mut vm, Order::Resume), "is not paused");
    let mut vm = running(RestartPolicy::OnCrash);
    assert_eq!(
        refusal(&mut vm, Order::Start),
        "is running already; `restart` begins it anew"
    );
    let _pressed = vm.order(Order::Stop { hard: false }, at(1)).unwrap();
    assert_eq!(
        refusal(&mut vm, Order::Stop { hard: false }),
        "is being stopped already; `stop` with `hard` does not wait for it"
    );
}

/// A shell that obeys, late, and a guest that does as it likes.
struct World {
    vm: Lifecycle,
    loading: bool,
    running: bool,
    parked: bool,
    hard_stop: bool,
    now: Duration,
    /// When a stop without a restart was ordered and not taken back.
    told_to_stop: Option<Duration>,
}

impl World {
    /// Carries `action` out and checks that it could be.
    fn apply(&mut self, action: Action) {
        match action {
            Action::Nothing => {}
            Action::LoadAndRun => {
                assert!(!self.running && !self.loading, "run twice");
                self.loading = true;
            }
            Action::Park => {
                assert!(self.running && !self.parked);
                self.parked = true;
            }
            Action::Unpark => {
                assert!(self.running && self.parked);
                self.parked = false;
            }
            Action::PressPowerButton { unpark } => {
                assert!(self.running);
                assert_eq!(unpark, self.parked);
                self.parked = false;
            }
            Action::HardStop => {
                assert!(self.running && !self.hard_stop, "stopped twice");
                self.parked = false;
                self.hard_stop = true;
            }
        }
    }

    fn end(&mut self, end: End) {
        self.running = false;
        self.parked = false;
        self.hard_stop = false;
        let action = self.vm.ended(end, self.now);
        self.apply(action);
    }

    /// The state machine and the world agree about what goes on.
    fn check(&self) {
        let state = self.vm.state();
        assert_eq!(self.loading, state == State::Starting);
        let runs = matches!(
            state,
            State::Running | State::Paused | State::Stopping { .. }
        );
        assert_eq!(self.running, runs, "{state}");
        assert_eq!(self.parked, state == State::Paused);
        let stuck = state == State::Stopping { deadline: None };
        assert_eq!(
            self.hard_stop, stuck,
            "a stop is waited for that nobody ordered"
        );
        if let State::BackOff { until } = state {
            assert!(until > self.now && until - self.now <= Duration::from_secs(60));
        }
        if let Some(since) = self.told_to_stop
            && self.now - since > TIMEOUT
            && !self.loading
        {
            assert!(
                state == State::Stopped || self.hard_stop,
                "{state} long after it was told to stop"
            );
        }
    }
}

#[test]
fn a_million_random_steps_never_run_a_vm_twice_or_lose_it() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let ends = [
        POWER_OFF,
        RESET,
        CRASH,
        End::Watchdog,
        End::Guest(StopReason::OutsideMemory {
            gpa: Gpa(0),
            write: true,
        }),
    ];
    let mut visited = [0_u32; 6];
    for round in 0..100 {
        let policy = [
            RestartPolicy::Never,
            RestartPolicy::OnCrash,
            RestartPolicy::Always,
        ][round % 3];
        let mut world = World {
            vm: stopped(policy),
            loading: false,
            running: false,
            parked: false,
            hard_stop: false,
            now: at(0),
            told_to_stop: None,
        };
        for _ in 0..10_000 {
            world.now += at([0, 1, 50, 900, 20_000][next(5) as usize]);
            let action = world.vm.tick(world.now);
            world.apply(action);
            match next(10) {
                0..4 => {
                    let order = [
                        Order::Start,
                        Order::Stop { hard: false },
                        Order::Stop { hard: true },
                        Order::Pause,
                        Order::Resume,
                        Order::Restart,
                    ][next(6) as usize];
                    let before = world.vm.clone();
                    match world.vm.order(order, world.now) {
                        Ok(action) => {
                            world.apply(action);
                            match order {
                                Order::Stop { .. } => world.told_to_stop = Some(world.now),
                                Order::Start | Order::Restart => world.told_to_stop = None,
                                Order::Pause | Order::Resume => {}
                            }
                        }
                        Err(refusal) => {
                            assert_eq!(before.state(), world.vm.state(), "{refusal}");
                            assert_eq!(before.wake_at(), world.vm.wake_at());
                        }
                    }
                }
                4..6 if world.loading => {
                    world.loading = false;
                    if next(8) == 0 {
                        world.vm.failed();
                    } else {
                        world.running = true;
                        let action = world.vm.started(world.now);
                        world.apply(action);
                    }
                }
                6..8 if world.running => world.end(ends[next(5) as usize]),
                8 if world.hard_stop => world.end(End::Operator),
                9 if !world.running => {
                    let late = world.vm.ended(CRASH, world.now);
                    assert_eq!(late, Action::Nothing, "an end that was reported before");
                }
                _ => {}
            }
            if world.vm.state() == State::Stopped {
                world.told_to_stop = None;
            }
            let due = world.vm.wake_at().is_some_and(|at| at <= world.now);
            if !due {
                world.check();
            }
            visited[match world.vm.state() {
                State::Stopped => 0,
                State::Starting => 1,
                State::Running => 2,
                State::Paused => 3,
                State::Stopping { .. } => 4,
                State::BackOff { .. } => 5,
            }] += 1;
        }
    }
    assert!(visited.iter().all(|count| *count > 1000), "{visited:?}");
}

#[test]
fn a_vm_that_the_hardware_hit_is_not_started_again_by_itself() {
    for policy in [RestartPolicy::Always, RestartPolicy::OnCrash] {
        let mut vm = Lifecycle::new(policy, Duration::from_secs(1));
        assert_eq!(vm.order(Order::Start, at(0)), Ok(Action::LoadAndRun));
        let _ = vm.started(at(1));
        assert_eq!(vm.ended(End::Hardware, at(2)), Action::Nothing);
        assert_eq!(vm.state(), State::Stopped);
        assert_eq!(vm.order(Order::Start, at(3)), Ok(Action::LoadAndRun));
        // Not although somebody wanted it, who did not know.
        let _ = vm.started(at(4));
        assert!(vm.order(Order::Restart, at(5)).is_ok());
        assert_eq!(vm.ended(End::Hardware, at(6)), Action::Nothing);
        assert_eq!(vm.state(), State::Stopped);
        assert_eq!(vm.order(Order::Start, at(7)), Ok(Action::LoadAndRun));
    }
}
